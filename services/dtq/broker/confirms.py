"""Confirms: the messages published on a channel that the broker has not answered, and what became of each.

Tags count the messages of a channel from 1, as the broker counts them: nothing else may publish on it. The broker
returns an unroutable message before it confirms it.
"""

import asyncio
from struct import Struct
from typing import Final

from pamqp.header import ContentHeader

from dtq.broker.frames import BODY, HEADER, METHOD, METHOD_ID

_CONFIRM: Final = Struct(">QB")
_ACK: Final = 60 << 16 | 80
_NACK: Final = 60 << 16 | 120
_RETURN: Final = 60 << 16 | 50
_MULTIPLE: Final = 1


class Returned(Exception):
    """No queue is bound for the message."""


class Refused(Exception):
    """The broker did not take the message: its queue is full."""


class Window:
    """Messages published together.

    Attributes:
        outcomes: of each message, in order: None if it is confirmed, else `Returned`, `Refused`, the error that closed
            the channel, or `TimeoutError` as long as the broker has not answered.
        missing: how many messages are not answered yet.
        answered: set once none is missing.
    """

    def __init__(self, messages: int) -> None:
        self.outcomes: list[Exception | None] = [TimeoutError()] * messages
        self.missing = messages
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Confirms:
    """Listens for the confirms of one channel; see `FrameReader`."""

    def __init__(self) -> None:
        self._last = 0
        self._open: dict[int, tuple[Window, int]] = {}
        self._returned: set[int] = set()
        self._returning = False
        self._missing_bytes = 0

    def add(self, window: Window, index: int) -> int:
        """Note the next message of the channel as the window's; return its tag."""
        self._last += 1
        self._open[self._last] = window, index
        return self._last

    def fail(self, error: Exception) -> None:
        """The channel is gone: whether the broker holds the open messages is unknown."""
        for window, index in self._open.values():
            _settle(window, index, error)
        self._open.clear()

    def __call__(self, kind: int, data: bytes, at: int, stop: int) -> bool:
        """Take a frame that belongs to a confirm or to a returned message."""
        if kind == METHOD:
            (method,) = METHOD_ID.unpack_from(data, at)
            if method in {_ACK, _NACK}:
                tag, bits = _CONFIRM.unpack_from(data, at + 4)
                self._answer(tag, multiple=bool(bits & _MULTIPLE), refused=method == _NACK)
                return True
            self._returning = method == _RETURN
            return self._returning
        if not self._returning:
            return False
        if kind == HEADER:
            header = ContentHeader()
            header.unmarshal(data[at:stop])
            self._missing_bytes = header.body_size or 0
            self._returned.add(int(header.properties.message_id or 0))
        elif kind == BODY:
            self._missing_bytes -= stop - at
        self._returning = self._missing_bytes > 0
        return True

    def _answer(self, tag: int, *, multiple: bool, refused: bool) -> None:
        if not multiple:
            self._close(tag, refused=refused)
            return
        while self._open and (first := next(iter(self._open))) <= tag:
            self._close(first, refused=refused)

    def _close(self, tag: int, *, refused: bool) -> None:
        found = self._open.pop(tag, None)
        if found is None:
            return
        outcome: Exception | None = Refused() if refused else None
        if tag in self._returned:
            self._returned.discard(tag)
            outcome = Returned()
        _settle(*found, outcome)


def _settle(window: Window, index: int, outcome: Exception | None) -> None:
    window.outcomes[index] = outcome
    window.missing -= 1
    if window.missing == 0 and not window.answered.done():
        window.answered.set_result(None)

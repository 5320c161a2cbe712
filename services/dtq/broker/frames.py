"""Frames: takes deliveries and confirms out of RabbitMQ's bytes, and packs messages. Everything else is the driver's.

The driver awaits three reads for each frame and starts a task for each message: a third of a worker's time. Here a
listener of a channel gets whole frames as they arrive, and the driver reads the rest as if nothing else had come.
Layouts: AMQP 0-9-1, sections 2.3.5 (frames), 4.2.6 (content) and 1.8 (class basic).
"""

from collections.abc import Callable
from struct import Struct
from typing import Final

METHOD: Final = 1
HEADER: Final = 2
BODY: Final = 3
HEARTBEAT: Final = 8
_KINDS: Final = frozenset({METHOD, HEADER, BODY, HEARTBEAT})
FRAME_END: Final = 0xCE
FRAME_BYTES_MAX: Final = 16 * 1024 * 1024
"""A longer frame, in bytes, is not one: RabbitMQ's own `frame_max` is 128 KiB by default."""
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"

_FRAME: Final = Struct(">BHI")
_FRAME_EXTRA: Final = _FRAME.size + 1
"""Bytes of a frame besides its content: head and end."""
METHOD_ID: Final = Struct(">I")
"""Class and method of a method frame."""
_LONG: Final = Struct(">Q")

_DELIVER: Final = 60 << 16 | 60
_BLOCKED: Final = 10 << 16 | 60
_UNBLOCKED: Final = 10 << 16 | 61

Listener = Callable[[int, bytes, int, int], bool]
"""Takes a frame of its channel: kind, bytes, and where its content begins and ends; False leaves it to the driver."""


class FrameReader:
    """Gives the frames of watched channels to their listeners, and returns the others."""

    def __init__(self) -> None:
        self.listeners: dict[int, Listener] = {}
        """By the number of the channel."""
        self.is_blocked = False
        """Whether the broker has stopped reading from us: a memory or disk alarm."""
        self._part = b""
        self._gave_up = False

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the connection; return whole frames for the driver, in order.

        After bytes that are not frames everything is returned: the driver has the error texts for that.
        """
        if self._gave_up:
            return data
        if self._part:
            data = self._part + data
        passed: list[bytes] = []
        at = begin = 0
        end = len(data)
        listeners = self.listeners
        while end - at >= _FRAME_EXTRA:
            kind, channel, size = _FRAME.unpack_from(data, at)
            stop = at + size + _FRAME_EXTRA
            if kind not in _KINDS or size > FRAME_BYTES_MAX or (stop <= end and data[stop - 1] != FRAME_END):
                self._gave_up = True
                at = end
                break
            if stop > end:
                break
            listener = listeners.get(channel)
            if listener is not None and listener(kind, data, at + 7, stop - 1):
                if begin < at:
                    passed.append(data[begin:at])
                begin = stop
            elif channel == 0 and kind == METHOD:
                self._watch(data, at + 7)
            at = stop
        if begin < at:
            passed.append(data[begin:at])
        self._part = data[at:]
        return b"".join(passed)

    def _watch(self, data: bytes, at: int) -> None:
        (method,) = METHOD_ID.unpack_from(data, at)
        if method in {_BLOCKED, _UNBLOCKED}:
            self.is_blocked = method == _BLOCKED


class Deliveries:
    """Listens for the deliveries of a channel with one consumer.

    Args:
        arrived: called with the tag and the body of each message.
    """

    def __init__(self, arrived: Callable[[int, bytes], None]) -> None:
        self._arrived = arrived
        self._tag = 0
        self._missing = 0
        self._parts: list[bytes] = []

    def __call__(self, kind: int, data: bytes, at: int, stop: int) -> bool:
        """Take a frame that belongs to a delivery."""
        if kind == METHOD:
            if METHOD_ID.unpack_from(data, at)[0] != _DELIVER:
                return False
            # Behind the consumer's tag, which is a short text.
            (self._tag,) = _LONG.unpack_from(data, at + 5 + data[at + 4])
            return True
        if not self._tag:
            return False
        if kind == HEADER:
            (self._missing,) = _LONG.unpack_from(data, at + 4)
            self._parts.clear()
        elif kind == BODY:
            self._missing -= stop - at
            self._parts.append(data[at:stop])
        if self._missing <= 0:
            tag, self._tag = self._tag, 0
            self._arrived(tag, self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))
        return True


_PUBLISH: Final = b"\x00\x3c\x00\x28\x00\x00"
"""`basic.publish`, with its reserved field."""
_MANDATORY: Final = b"\x01"
_CONTENT: Final = Struct(">HHQH")
_WITH_ID: Final = 0x9080
"""The properties content type, delivery mode and message id."""
_WITH_EXPIRATION: Final = 0x9180
_JSON_PERSISTENT: Final = b"\x10application/json\x02"


def pack_message(
    channel: int,
    exchange: str,
    routing_key: str,
    body: bytes,
    *,
    message_id: str,
    ttl_ms: int | None = None,
    part_bytes: int,
) -> bytes:
    """Return the frames of one mandatory, persistent message.

    Args:
        channel: its number.
        exchange: where the message is published.
        routing_key: its routing key.
        body: its content.
        message_id: the property of that name.
        ttl_ms: the message's own TTL, in milliseconds.
        part_bytes: most bytes of the body per frame.

    Raises:
        ValueError: a name has more than 255 bytes.
    """
    method = _PUBLISH + _short(exchange) + _short(routing_key) + _MANDATORY
    if ttl_ms is None:
        header = _CONTENT.pack(60, 0, len(body), _WITH_ID) + _JSON_PERSISTENT + _short(message_id)
    else:
        properties = _JSON_PERSISTENT + _short(str(ttl_ms)) + _short(message_id)
        header = _CONTENT.pack(60, 0, len(body), _WITH_EXPIRATION) + properties
    return b"".join((
        _FRAME.pack(METHOD, channel, len(method)), method, b"\xce",
        _FRAME.pack(HEADER, channel, len(header)), header, b"\xce",
        *(
            b"%b%b\xce" % (_FRAME.pack(BODY, channel, len(part)), part)
            for part in (body[at : at + part_bytes] for at in range(0, len(body), part_bytes))
        ),
    ))  # fmt: skip


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded

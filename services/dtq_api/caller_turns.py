"""Turns: how much of one kind each caller may have under way at the same time; the rest waits, for a bounded time."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from dtq.domain.errors import Rejected
from dtq.runtime.loops import acquire


class CallerTurns:
    """The turns of all callers.

    Args:
        at_once: most turns of one caller.
        waiting_max: most waits of one caller.
        wait_seconds: longest wait, in seconds.
        refused: returns the error for a caller who may not wait, or has waited too long.
    """

    def __init__(
        self, *, at_once: int, waiting_max: int, wait_seconds: float, refused: Callable[[str], Rejected]
    ) -> None:
        self._at_once = at_once
        self._waiting_max = waiting_max
        self._wait_seconds = wait_seconds
        self._refused = refused
        self._callers: dict[str, _Caller] = {}

    def open(self, caller: str) -> int:
        """Return how many turns and waits a caller has."""
        known = self._callers.get(caller)
        return known.open if known else 0

    async def begin(self, caller: str) -> None:
        """Wait for a turn; `end` must follow.

        Raises:
            Rejected: there was none.
        """
        known = self._callers.get(caller)
        if known is None:
            known = self._callers[caller] = _Caller(self._at_once)
        if known.open >= self._at_once + self._waiting_max:
            raise self._refused(caller)
        known.open += 1
        has_turn = False
        try:
            if known.turns.locked():
                has_turn = await acquire(known.turns, self._wait_seconds)
            else:
                has_turn = await known.turns.acquire()  # at once, and without a timer
            if not has_turn:
                raise self._refused(caller)
        finally:
            if not has_turn:
                self._leave(caller, known)

    def end(self, caller: str) -> None:
        """End a turn that `begin` has given."""
        known = self._callers[caller]
        known.turns.release()
        self._leave(caller, known)

    @asynccontextmanager
    async def turn(self, caller: str) -> AsyncIterator[None]:
        """Have a turn while the body runs; see `begin`."""
        await self.begin(caller)
        try:
            yield
        finally:
            self.end(caller)

    def _leave(self, caller: str, known: "_Caller") -> None:
        known.open -= 1
        if not known.open:
            del self._callers[caller]


class _Caller:
    """The turns of one caller, and how many of its requests have one or wait."""

    def __init__(self, at_once: int) -> None:
        self.turns = asyncio.Semaphore(at_once)
        self.open = 0

"""Deadlines that do not count the time in which the event loop was blocked.

A handler that blocks the loop must not cost other tasks their attempts: when the loop runs again, all their time-outs
are due at once, together with the events that they were waiting for.
"""

import asyncio
from collections.abc import Callable
from typing import Final

LATE_SECONDS: Final = 0.5
"""How late a deadline must fire, in seconds, to show that the loop was blocked."""


class Deadline:
    """Calls back once, `seconds` from now; time in which the loop was blocked is added, up to `seconds` again."""

    def __init__(self, seconds: float, due: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = due
        self._spare_seconds = seconds
        self._at = self._loop.time() + seconds
        self._timer = self._loop.call_at(self._at, self._reached)

    def cancel(self) -> None:
        """Cancel the callback."""
        self._timer.cancel()

    def _reached(self) -> None:
        now = self._loop.time()
        extra_seconds = min(now - self._at, self._spare_seconds)
        if extra_seconds < LATE_SECONDS:
            self._due()
            return
        self._spare_seconds -= extra_seconds
        self._at = now + extra_seconds
        self._timer = self._loop.call_at(self._at, self._reached)

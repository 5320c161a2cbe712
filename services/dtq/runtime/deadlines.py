"""Deadlines that do not count the time in which the event loop was blocked.

A handler that blocks the loop must not cost other tasks their attempts: when the loop runs again, all their time-outs
are due at once, together with the events that they were waiting for. Deadlines that are due at about the same time
share a timer: a worker starts thousands per second, and hardly any is ever reached.
"""

import asyncio
from collections.abc import Callable
from typing import Final

LATE_SECONDS: Final = 0.5
"""How late a deadline must be reached, in seconds, to show that the loop was blocked."""
STEP_SECONDS: Final = 0.05
"""Deadlines within this time, in seconds, share a timer: each is reached at most this much late, and none too early."""


class Deadline:
    """Calls back once; time in which the loop was blocked is added, up to the deadline's own length again."""

    __slots__ = ("at", "due", "spare_seconds", "step", "was_reached")

    def __init__(self, at: float, due: Callable[[], object], spare_seconds: float) -> None:
        self.at = at
        self.due = due
        self.spare_seconds = spare_seconds
        self.step = 0
        self.was_reached = False


class Deadlines:
    """The deadlines of one event loop."""

    def __init__(self) -> None:
        self._steps: dict[int, set[Deadline]] = {}

    def start(self, seconds: float, due: Callable[[], object]) -> Deadline:
        """Call back `seconds` from now, unless the deadline is cancelled."""
        deadline = Deadline(asyncio.get_running_loop().time() + seconds, due, seconds)
        self._file(deadline)
        return deadline

    def cancel(self, deadline: Deadline) -> None:
        """Cancel the callback."""
        self._steps.get(deadline.step, set()).discard(deadline)

    def _file(self, deadline: Deadline) -> None:
        deadline.step = step = int(deadline.at / STEP_SECONDS) + 1
        filed = self._steps.get(step)
        if filed is None:
            filed = self._steps[step] = set()
            asyncio.get_running_loop().call_at(step * STEP_SECONDS, self._reached, step)
        filed.add(deadline)

    def _reached(self, step: int) -> None:
        now = asyncio.get_running_loop().time()
        for deadline in self._steps.pop(step):
            extra_seconds = min(now - deadline.at, deadline.spare_seconds)
            if extra_seconds < LATE_SECONDS:
                deadline.was_reached = True
                deadline.due()
            else:
                deadline.spare_seconds -= extra_seconds
                deadline.at = now + extra_seconds
                self._file(deadline)

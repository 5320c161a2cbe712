"""Due work: one cheap query, shared by the maintenance loops of this process.

A loop without due work does not query the database, so an idle system costs almost nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import Work

LOOK_SECONDS: Final = 0.4
"""How long the result is reused, in seconds: less than the pause of the quickest loop."""
REST_SECONDS: Final = 1.0
"""Longest pause between two looks, in seconds: another process may add work that is due at once."""

Step = Callable[[], Awaitable[bool]]


class DueCache:
    """The last result."""

    def __init__(self, database: Database) -> None:
        self._dedicated = database.dedicated("due")
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._work: Work | None = None

    async def look(self) -> Work:
        """Return what is due; the result is at most LOOK_SECONDS old."""
        async with self._looking:
            if self._work is None or time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._work = await maintenance.look(self._dedicated)
                self._looked_at = time.monotonic()
            return self._work

    def forget(self) -> None:
        """Have the next loop look again: this process has added work."""
        self._work = None

    def pause_seconds(self, least: float) -> float:
        """Return how long a loop may pause: `least` while there is work, else until work is due as far as is known."""
        quiet_seconds = 0.0 if self._work is None else self._work.quiet_seconds
        return max(least, min(REST_SECONDS, quiet_seconds))

    def gated(self, is_due: Callable[[Work], bool], once: Step) -> Step:
        """Return a step of a loop that runs only when its work is due."""

        async def step() -> bool:
            return is_due(await self.look()) and await once()

        return step

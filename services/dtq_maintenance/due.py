"""Due work: one cheap look at the database, shared by the maintenance loops of this process.

Owns the look. A loop whose work is not due asks the database nothing, so that rest costs next to nothing.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import Work

LOOK_SECONDS: Final = 0.4
"""How long a look is good for, in seconds: less than the pause of the quickest loop."""

Step = Callable[[], Awaitable[bool]]


class DueCache:
    """The last look."""

    def __init__(self, database: Database) -> None:
        self._dedicated = database.dedicated("due")
        self._looking = asyncio.Lock()
        self._looked_at = float("-inf")
        self._work: Work | None = None

    async def look(self) -> Work:
        """Return what is due, as of LOOK_SECONDS ago at the most.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._looking:
            if self._work is None or time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._work = await maintenance.look(self._dedicated)
                self._looked_at = time.monotonic()
            return self._work

    def gated(self, is_due: Callable[[Work], bool], once: Step) -> Step:
        """Return the same step of a loop, taken only when its work is due."""

        async def step() -> bool:
            return is_due(await self.look()) and await once()

        return step

"""Confirms: records, after a delay and in bulk, which waiting tasks the broker holds.

Most tasks are claimed within the delay and need no record; a lost record costs one duplicate message.
"""

import asyncio
from datetime import datetime
from itertools import islice
from typing import Final
from uuid import UUID

import structlog

from dtq.domain.errors import Unavailable
from dtq.runtime import failpoints
from dtq.runtime.loops import Ticker, every
from dtq_db import tasks as store
from dtq_db.connections import Database

DELAY_SECONDS: Final = 1.0
"""How long a confirm waits for its task to be claimed, in seconds; well below the relay's grace period."""
BATCH_MAX: Final = 1_000
"""Most confirms per statement: it stays far below its time-out, so that a burst cannot make it fail repeatedly."""
PENDING_MAX: Final = 50_000
"""Most confirms kept in memory; further confirms are dropped, which only costs duplicate messages."""

_log = structlog.get_logger(__name__)


class Confirms:
    """Collects confirms and writes those from the round before last."""

    def __init__(self, database: Database) -> None:
        self._dedicated = database.dedicated("confirm")
        self._fresh: dict[UUID, datetime] = {}
        self._ripe: dict[UUID, datetime] = {}

    def add(self, confirmed: dict[UUID, datetime]) -> None:
        """Add tasks that the broker holds, with the version of the published row."""
        if len(self._fresh) < PENDING_MAX:
            self._fresh |= confirmed

    async def flush(self) -> bool:
        """Write the confirms that have waited long enough; return False."""
        ripe = iter(list(self._ripe))
        while batch := list(islice(ripe, BATCH_MAX)):
            await store.confirm(self._dedicated, {id_: self._ripe[id_] for id_ in batch})
            await failpoints.hit("confirm.noted")
            for id_ in batch:
                del self._ripe[id_]
        self._ripe, self._fresh = self._fresh, {}
        return False

    async def run(self, stop: asyncio.Event, ticker: Ticker) -> None:
        """Flush until `stop`, then write the rest."""
        await every(DELAY_SECONDS, self.flush, stop, name="confirms", ticker=ticker)
        try:
            await self.flush()
            await self.flush()
        except Unavailable as error:
            _log.warning("confirm write failed", reason=str(error))

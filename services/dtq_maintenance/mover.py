"""The mover: moves waiting tasks out of queues that their set no longer declares."""

from typing import Final

import structlog

from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import BATCH

MOVE_SECONDS: Final = 5.0
"""Pause of the mover, in seconds: how long a task stays in a removed queue."""

_log = structlog.get_logger(__name__)


class Mover:
    """Moves tasks out of queues that their set no longer declares: they waited there, arrived late, or are retried."""

    def __init__(self, database: Database) -> None:
        self._dedicated = database.dedicated("mover")

    async def once(self) -> bool:
        """Move one batch out of each such queue; return whether more tasks may be left."""
        more = False
        for queue_set, queue in await maintenance.removed_queues(self._dedicated):
            moved = await maintenance.move(self._dedicated, queue_set, queue)
            if moved:
                _log.info("tasks moved", queue_set=queue_set, queue=queue, tasks=moved)
            more = more or moved == BATCH
        return more

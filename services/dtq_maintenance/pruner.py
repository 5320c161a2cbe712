"""The pruner: deletes finished tasks after their retention, old history, and workers that ended long ago."""

from typing import Final

import structlog

from dtq.runtime import failpoints
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import maintenance
from dtq_db.connections import Database

PRUNE_SECONDS: Final = 60.0
"""Pause of the pruner when nothing is due, in seconds."""
EVENT_DAYS_AHEAD: Final = 7
"""How far ahead daily partitions are created, in days: a week without a pruner does no harm."""

_log = structlog.get_logger(__name__)


class Pruner:
    """Deletes finished tasks after their retention, old history, and workers that ended long ago."""

    def __init__(self, database: Database, *, events_retention_days: int, metrics: MaintenanceMetrics) -> None:
        self._database = database
        self._dedicated = database.dedicated("pruner")
        self._keep_days = events_retention_days
        self._metrics = metrics
        self._is_walking = False

    async def once(self) -> bool:
        """Prune one batch; return whether the walk continues."""
        if not self._is_walking:
            dropped = await maintenance.rotate_events(
                self._database, days_ahead=EVENT_DAYS_AHEAD, keep_days=self._keep_days
            )
            if dropped:
                _log.info("event partitions dropped", partitions=dropped)
            await maintenance.prune_workers(self._database)
        pruned, self._is_walking = await maintenance.prune(self._dedicated)
        if pruned:
            await failpoints.hit("prune.committed")
        self._metrics.pruned.inc(pruned)
        return self._is_walking

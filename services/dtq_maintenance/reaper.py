"""The reaper: takes back the tasks of workers whose lease expired."""

import random
import time
from typing import Final

import structlog

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import decide
from dtq.domain.errors import Unavailable
from dtq.runtime import failpoints
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import catalog, maintenance
from dtq_db.attempts import Completion
from dtq_db.connections import Database
from dtq_db.maintenance import OrphanedTask

REAP_SECONDS: Final = 2.0
"""Pause of the reaper, in seconds."""
HAND_BACK_SECONDS: Final = 3.0
"""How long workers have, after an outage of Postgres, to give back the tasks that they stopped, in seconds."""

_log = structlog.get_logger(__name__)


class Reaper:
    """Takes back the tasks of workers whose lease expired.

    After an outage of Postgres every lease has expired, although few workers are lost. The reaper then waits until the
    live workers have given back the tasks that they stopped, so that these tasks do not become suspects.
    """

    def __init__(self, database: Database, *, backoff: Backoff, metrics: MaintenanceMetrics) -> None:
        self._dedicated = database.dedicated("reaper")
        self._backoff = backoff
        self._metrics = metrics
        self._database = database
        self._was_away = False
        self._not_before = 0.0

    async def once(self) -> bool:
        """Take back one batch of one worker; return whether more tasks may be left."""
        if self._was_away:
            await catalog.revision(self._database)
            self._was_away, self._not_before = False, time.monotonic() + HAND_BACK_SECONDS
        if time.monotonic() < self._not_before:
            return False
        try:
            taken, more = await maintenance.reap(self._dedicated, self._lost)
        except Unavailable:
            self._was_away = True
            raise
        if taken:
            await failpoints.hit("reap.committed")
            for status, count in taken.items():
                self._metrics.reaped.labels(status).inc(count)
            _log.warning("tasks reaped", tasks=taken.total())
        return more

    def _lost(self, held: OrphanedTask) -> Completion:
        decision = decide(held.ended, held.backoff or self._backoff, random.random())  # noqa: S311
        return Completion(worker_id=held.worker_id, id=held.id, attempt=held.ended.attempt, decision=decision)

"""The scheduler: enqueues the tasks of due cron entries. Any replica may fire an entry; it fires once.

The fire time is part of the idempotency key, so a second fire is a replay.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from uuid_utils.compat import uuid7

from dtq.domain.schedules import BadSchedule, next_fire
from dtq.runtime import failpoints
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import DueSchedule
from dtq_db.tasks import NewTask

SCHEDULE_SECONDS: Final = 1.0
"""Pause of the scheduler, in seconds: how late a cron entry may fire."""
MISFIRE_SECONDS: Final = 3600.0
"""How late a missed fire is still made up for, in seconds; an older one is skipped, since its task is stale."""

REPLAN_SECONDS: Final = 10.0
"""Pause between two batches of replanned entries, in seconds."""
REPLAN_BATCH: Final = 100
"""Entries per batch: some milliseconds of parsing cron expressions."""
KEY_SPACE: Final = "\x1f"
"""Prefix of the idempotency keys of fires. A client's key may not hold a control character, so keys never collide."""
BROKEN_SECONDS: Final = 300.0
"""When an unreadable entry is checked again, in seconds: the operator repairs it long before."""

_log = structlog.get_logger(__name__)


class Scheduler:
    """Fires due cron entries."""

    def __init__(self, database: Database, *, metrics: MaintenanceMetrics) -> None:
        self._dedicated = database.dedicated("scheduler")
        self._metrics = metrics
        self._after = maintenance.FIRST_SCHEDULE

    async def once(self) -> bool:
        """Fire one batch; return whether more entries may be due.

        Raises:
            Unavailable: the database does not answer; nothing was fired twice.
        """
        fired, more = await maintenance.fire(self._dedicated, plan_fire)
        if fired:
            await failpoints.hit("scheduler.committed")
        for type_ in fired:
            self._metrics.fired.labels(type_).inc()
        return more

    async def replan(self) -> bool:
        """Check one batch of the entries that are planned for later; return False: the next batch can wait.

        An entry that was planned while the database's clock was wrong may be planned for a time far in the future.
        """
        self._after, earlier = await maintenance.replan(self._dedicated, self._after, REPLAN_BATCH, _following)
        for type_, name in earlier:
            _log.warning("schedule replanned", type=type_, schedule=name)
        return False


def _following(due: DueSchedule) -> datetime:
    try:
        return next_fire(due.cron, due.timezone, due.now)
    except BadSchedule:
        return due.next_fire_at or due.now  # logged when it is due


def plan_fire(due: DueSchedule) -> tuple[NewTask | None, datetime]:
    """Return the task that a due entry enqueues, if any, and when the entry is due next, in UTC.

    A new entry fires at its next time; several missed fires become one. An entry that was edited by hand into an
    invalid one never fires and does not delay others: it is checked again after BROKEN_SECONDS.
    """
    try:
        following = next_fire(due.cron, due.timezone, due.now)
    except BadSchedule as error:
        _log.error("schedule rejected", type=due.type, schedule=due.name, reason=str(error))
        return None, due.now + timedelta(seconds=BROKEN_SECONDS)
    if due.next_fire_at is None or not due.active:
        return None, following
    if due.now - due.next_fire_at > timedelta(seconds=MISFIRE_SECONDS):
        _log.warning("missed fire skipped", type=due.type, schedule=due.name)
        return None, following
    task = NewTask(
        id=uuid7(),
        type=due.type,
        queue_set=due.queue_set,
        queue=due.default_queue,
        payload=due.payload,
        max_attempts=due.default_max_attempts,
        idempotency_key=f"{KEY_SPACE}schedule:{due.type}:{due.name}:{due.next_fire_at.astimezone(UTC):%Y-%m-%dT%H:%MZ}",
    )
    return task, following

"""The relay: publishes stored tasks that are due but not yet published, and missing dead letters.

There is no leader: relays lock rows with SKIP LOCKED.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final
from uuid import UUID

from dtq.broker.messages import dead_letter, work
from dtq.broker.publish_window import Message
from dtq.broker.publisher import Publisher
from dtq.domain.limits import RELAY_GRACE_SECONDS
from dtq.domain.queue_sets import QueueSets
from dtq.runtime import failpoints
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import BATCH, RELAY_BATCH, DueTask

RELAY_SECONDS: Final = 0.5
"""Pause of the relay, in seconds: how late a scheduled task may start."""


class Relay:
    """Publishes stored tasks that are due but not yet published, and missing dead letters.

    Args:
        closed: returns the names of the queue sets that RabbitMQ refuses: their tasks wait.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        queue_sets: QueueSets,
        confirmed: Callable[[dict[UUID, datetime]], None],
        closed: Callable[[], list[str]],
        metrics: MaintenanceMetrics,
    ) -> None:
        self._dedicated = database.dedicated("relay")
        self._confirmed = confirmed
        self._publisher = publisher
        self._queue_sets = queue_sets
        self._closed = closed
        self._metrics = metrics
        self._after_slot = ""

    async def once(self) -> bool:
        """Publish one batch; return whether more tasks may be due.

        Raises:
            Unavailable: database or broker do not answer; the rows stay due.
        """
        self._publisher.check()
        closed = self._closed()
        due = await maintenance.relay(self._dedicated, hold_seconds=2 * RELAY_GRACE_SECONDS, without=closed)
        due += await self._unblocked()
        if due:
            await failpoints.hit("relay.picked")
        confirmed = await self._publish(due, work)
        if confirmed:
            await failpoints.hit("relay.published")
            self._confirmed(confirmed)
            self._metrics.relayed.inc(len(confirmed))
            await failpoints.hit("relay.confirmed")
        noted = await maintenance.dead_letter(
            self._dedicated, RELAY_GRACE_SECONDS, self._publish_dead_letters, without=closed
        )
        self._metrics.dead_lettered.inc(noted)
        return len(due) >= RELAY_BATCH

    async def _unblocked(self) -> list[DueTask]:
        """Pick tasks for which a limit has room again; each call continues where the last call stopped."""
        slots = await maintenance.blocked_slots(self._dedicated, self._after_slot)
        self._after_slot = slots[-1] if len(slots) == BATCH else ""
        return await maintenance.unblock(self._dedicated, slots, hold_seconds=2 * RELAY_GRACE_SECONDS) if slots else []

    async def _publish_dead_letters(self, overdue: list[DueTask]) -> dict[UUID, datetime]:
        confirmed = await self._publish(overdue, dead_letter)
        await failpoints.hit("relay.dead_letters_published")
        return confirmed

    async def _publish(
        self, due: list[DueTask], message: Callable[[str, str, UUID, str], Message]
    ) -> dict[UUID, datetime]:
        messages = [message(self._queue_sets.prefix(task.queue_set), task.queue, task.id, task.type) for task in due]
        results = await self._publisher.publish(messages)
        return {task.id: task.updated_at for task, refused in zip(due, results, strict=True) if refused is None}

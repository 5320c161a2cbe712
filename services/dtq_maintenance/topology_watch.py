"""The topology watch: declares missing topology in RabbitMQ, and finds tasks whose message was lost."""

from typing import Final

import structlog

from dtq.broker.admin import ready_counts
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from dtq.domain.limits import RELAY_LOST_SECONDS
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.queue_sets import QueueSets
from dtq.domain.topology import work_queue
from dtq.runtime import failpoints
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.maintenance import BATCH

WATCH_SECONDS: Final = 15.0
"""Pause between two checks of the topology, in seconds: how long a queue deleted by hand may be missing."""

_log = structlog.get_logger(__name__)


class TopologyWatch:
    """Declares missing topology, and finds tasks whose message the broker no longer holds."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        queue_sets: QueueSets,
        metrics: MaintenanceMetrics,
    ) -> None:
        self._dedicated = database.dedicated("watch")
        self._publisher = publisher
        self._queue_sets = queue_sets
        self._metrics = metrics

    async def once(self) -> bool:
        """Check once; return False."""
        await self._publisher.declare()
        trouble: Unavailable | None = None
        for name, spec in self._queue_sets.items():
            try:
                await self._look(name, spec)
            except Unavailable as error:  # a queue set that does not answer must not delay the others
                trouble = error
        if trouble is not None:
            raise trouble
        return False

    async def _look(self, name: str, spec: QueueSetSpec) -> None:
        names = {work_queue(spec.namespace, queue.name): queue.name for queue in spec.queues}
        for broker_name, ready in (await ready_counts(self._publisher.broker, list(names))).items():
            if ready == 0:
                await self.find_lost(name, names[broker_name], RELAY_LOST_SECONDS)

    async def find_lost(self, queue_set: str, queue: str, waiting_seconds: float) -> None:
        """Mark the confirmed tasks of a queue that the broker no longer holds to be published again."""
        while count := await maintenance.lost(self._dedicated, queue_set, queue, waiting_seconds):
            await failpoints.hit("relay.lost_marked")
            self._metrics.lost.inc(count)
            _log.warning("lost messages found", queue_set=queue_set, queue=queue, tasks=count)
            if count < BATCH:
                return

    async def recall_dead_letters(self, queue_set: str) -> None:
        """Mark the copies of all failed tasks to be published again: the dead letter queue was lost."""
        if count := await maintenance.dead_letters_lost(self._dedicated, queue_set):
            _log.warning("lost dead letters found", queue_set=queue_set, tasks=count)

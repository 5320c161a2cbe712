"""Scaling hints over HTTP, for KEDA's `metrics-api` trigger.

The backlog is counted in Postgres: the broker does not show messages in a worker's buffer. An unknown backlog is an
error (503), never 0: with 0 a scaler would remove the last worker.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.queue_sets import QueueSets
from dtq.domain.scaling import desired_replicas
from dtq.domain.stored import Newer
from dtq_api.bodies import ScalingHint
from dtq_db import backlog
from dtq_db.connections import Database


class ScalingHints:
    """Computes how many workers a queue needs now."""

    def __init__(
        self,
        database: Database,
        *,
        queue_sets: QueueSets,
        newer: Callable[[], Newer],
    ) -> None:
        self._database = database
        self._queue_sets = queue_sets
        self._newer = newer

    async def hint(self, queue_set: str, queue: str) -> ScalingHint:
        """Return backlog and desired replicas of a queue.

        Raises:
            Rejected: `NotFound`: the queue set or queue does not exist.
            Unavailable: the backlog is unknown.
        """
        spec = self._queue_sets.get(queue_set)
        declared = next((candidate for candidate in spec.queues if candidate.name == queue), None) if spec else None
        key, newer = (queue_set, queue), self._newer()
        if reason := newer.queues.get(key) or newer.scaling.get(key):
            raise Unavailable(f"only a newer release knows how queue {queue!r} scales: {reason}")
        if spec is None or declared is None:
            raise Rejected("NotFound", f"not found: queue {queue!r} of queue set {queue_set!r} is not declared")
        load = (await backlog.loads(self._database, queue_set, [queue]))[queue]
        return ScalingHint(
            queue_set=queue_set,
            queue=queue,
            backlog=load.backlog,
            ready=load.ready,
            running=load.running,
            desiredReplicas=desired_replicas(load, declared.scaling),
            asOf=datetime.now(UTC),
        )

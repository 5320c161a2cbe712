"""Scaling hints: how many workers a queue needs, alone or together with the queues that share its workers.

Unknown is never 0: a caller that does not know the backlog has no number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from dtq.domain.manifests import Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """The backlog of a queue, running tasks included.

    Attributes:
        ready: tasks that are due and not claimed.
        running: handlers running now.
        concurrency: slots of one worker; 0 if there is no worker.
    """

    ready: int
    running: int
    concurrency: int = 0

    @property
    def backlog(self) -> int:
        """Ready and running tasks."""
        return self.ready + self.running


def desired_replicas(load: Load, scaling: Scaling) -> int:
    """Return the number of workers a queue needs: its backlog divided by its target, within its bounds.

    The number is never below what the running tasks occupy, even if that exceeds `maxReplicas`: removing a worker
    would cut its tasks short.
    """
    return desired_together([(load, scaling)])


def desired_together(queues: Sequence[tuple[Load, Scaling]]) -> int:
    """Return the number of workers that several queues need together when the same workers consume them.

    The needs of the queues add up. The bounds do not: the workers are the same, so the largest `minReplicas` and the
    largest `maxReplicas` apply.
    """
    wanted = ceil(sum(Fraction(load.backlog, scaling.target_backlog_per_replica) for load, scaling in queues))
    bounds = shared_bounds([scaling for _, scaling in queues])
    bounded = max(bounds.min_replicas, min(wanted, bounds.max_replicas))
    running = sum(load.running for load, _ in queues)
    concurrency = max(load.concurrency for load, _ in queues)
    occupied = -(-running // concurrency) if concurrency else int(running > 0)
    return max(bounded, occupied)


def shared_bounds(scalings: Sequence[Scaling]) -> Scaling:
    """Return the bounds and the cooldown for queues that share their workers: the largest of each."""
    return Scaling(
        min_replicas=max(scaling.min_replicas for scaling in scalings),
        max_replicas=max(scaling.max_replicas for scaling in scalings),
        cooldown_seconds=max(scaling.cooldown_seconds for scaling in scalings),
    )

"""Scaling hints: how many workers a queue wants, and how many several queues want that share their workers.

Pure. Must never answer 0 for "unknown": callers that do not know the backlog have no number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from dtq.domain.manifests import Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a queue has to do.

    Attributes:
        ready: tasks that are due and that no worker has claimed.
        running: handlers running now.
        concurrency: slots of one worker; 0 if no worker is there to ask.
    """

    ready: int
    running: int
    concurrency: int = 0

    @property
    def backlog(self) -> int:
        """Ready and running tasks."""
        return self.ready + self.running


def desired_replicas(load: Load, scaling: Scaling) -> int:
    """Return the workers a queue wants: its backlog by its target, within its bounds.

    Never below what the running tasks occupy, even above `maxReplicas`'s idea of enough: taking a worker away
    would cut its tasks short.
    """
    return desired_together([(load, scaling)])


def desired_together(queues: Sequence[tuple[Load, Scaling]]) -> int:
    """Return the workers that queues want together which the same workers consume.

    What each queue wants of a worker adds up. The bounds do not: the workers are the same, so the largest
    `minReplicas` and the largest `maxReplicas` hold.
    """
    wanted = ceil(sum(Fraction(load.backlog, scaling.target_backlog_per_replica) for load, scaling in queues))
    bounds = shared_bounds([scaling for _, scaling in queues])
    bounded = max(bounds.min_replicas, min(wanted, bounds.max_replicas))
    running = sum(load.running for load, _ in queues)
    concurrency = max(load.concurrency for load, _ in queues)
    occupied = -(-running // concurrency) if concurrency else int(running > 0)
    return max(bounded, occupied)


def shared_bounds(scalings: Sequence[Scaling]) -> Scaling:
    """Return the bounds and the cooldown of queues that the same workers consume: the largest of each."""
    return Scaling(
        min_replicas=max(scaling.min_replicas for scaling in scalings),
        max_replicas=max(scaling.max_replicas for scaling in scalings),
        cooldown_seconds=max(scaling.cooldown_seconds for scaling in scalings),
    )

"""Scaling hints: how many workers a queue wants.

Owns the number. Must never answer 0 for "unknown": callers that do not know the backlog have no number.
"""

from dataclasses import dataclass

from dtq.domain.manifests import Scaling


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a queue has to do.

    Attributes:
        ready: messages that no worker has taken.
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
    wanted = -(-load.backlog // scaling.target_backlog_per_replica)
    bounded = max(scaling.min_replicas, min(wanted, scaling.max_replicas))
    occupied = -(-load.running // load.concurrency) if load.concurrency else int(load.running > 0)
    return max(bounded, occupied)

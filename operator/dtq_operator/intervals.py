"""The operator's intervals that are not settings; tests shorten them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """Intervals, in seconds.

    Attributes:
        scaling_seconds: pause between two readings of the backlogs.
        serving_seconds: pause between two readings of the workers.
        unserved_seconds: how long after the end of its last worker's lease, or after its own creation, a type may be
            without a worker: a rolling update should not write every status twice.
        wait_seconds: when an object that waits for another object is reconciled again.
        orphan_seconds: how long an object must be missing, in at least two sweeps, before its claim is released.
        measure_seconds: pause between two updates of the gauges.
    """

    scaling_seconds: float = 10.0
    serving_seconds: float = 10.0
    unserved_seconds: float = 60.0
    wait_seconds: float = 15.0
    orphan_seconds: float = 60.0
    measure_seconds: float = 2.0

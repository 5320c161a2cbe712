"""The pace of the operator: the pauses that are no setting.

Owns the numbers; tests make them short, so that nothing has to be waited for.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Intervals:
    """How often and how long, in seconds.

    Attributes:
        scaling_seconds: pause between two looks at the backlogs.
        serving_seconds: pause between two looks at the workers.
        unserved_seconds: how long a type may be without a worker before its status says so.
        wait_seconds: when an object that waits for another one is looked at again.
        orphan_seconds: how long an object must be missing, in two sweeps at least, before its claim is let go of.
        measure_seconds: pause between two updates of the gauges.
    """

    scaling_seconds: float = 10.0
    serving_seconds: float = 10.0
    unserved_seconds: float = 60.0
    wait_seconds: float = 15.0
    orphan_seconds: float = 60.0
    measure_seconds: float = 2.0

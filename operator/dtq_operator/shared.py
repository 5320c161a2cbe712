"""What the parts of the operator process share, and its intervals that are not settings; tests shorten them."""

from dataclasses import dataclass

from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.settings import OperatorSettings
from dtq_db.connections import Database
from dtq_operator.events import Events
from dtq_operator.kube import Kube
from dtq_operator.store import Key, Store
from dtq_operator.workqueue import WorkQueue


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """The settings, the two ends (cluster and database), and what all parts read and feed.

    Attributes:
        queue: takes the keys of the objects whose rows or status may have to change.
    """

    settings: OperatorSettings
    pace: Intervals
    kube: Kube
    database: Database
    store: Store
    queue: WorkQueue[Key]
    events: Events
    metrics: OperatorMetrics

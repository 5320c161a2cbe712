"""What the parts of the operator process share."""

from dataclasses import dataclass

from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.settings import OperatorSettings
from dtq_db.connections import Database
from dtq_operator.events import Events
from dtq_operator.intervals import Intervals
from dtq_operator.kube import Kube
from dtq_operator.store import Key, Store
from dtq_operator.workqueue import WorkQueue


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

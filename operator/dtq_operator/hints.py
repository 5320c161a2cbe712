"""Scaling hints for the status of a queue set: the value that scaling passes to the reconciler."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dtq_operator.reasons import ConditionReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """The scaling hints of a queue set.

    Attributes:
        desired: replicas by queue; a queue whose backlog is unknown is absent.
        troubles: reason and message by queue whose Deployment is not scaled.
    """

    desired: Mapping[str, int] = field(default_factory=dict)
    troubles: Mapping[str, tuple[ConditionReason, str]] = field(default_factory=dict)

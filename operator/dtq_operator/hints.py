"""Hints: what scaling has found out about one queue set, for its status.

Owns the value that scaling hands to reconciling, so that neither knows the other.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from dtq_operator.reasons import ConditionReason


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """What is known of a queue set.

    Attributes:
        desired: replicas by queue; a queue whose backlog is unknown is absent.
        troubles: why a queue's Deployment is not scaled, by queue: reason and message.
    """

    desired: Mapping[str, int] = field(default_factory=dict)
    troubles: Mapping[str, tuple[ConditionReason, str]] = field(default_factory=dict)

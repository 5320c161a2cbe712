"""Every reason of the operator's conditions and Events, besides those of `dtq.domain.plan.Reason`.

docs/operator.md explains each reason; a test compares them.
"""

from enum import StrEnum
from typing import Final

from dtq.domain.plan import Reason


class ConditionReason(StrEnum):
    """The reason of a condition; a refusal by a plan has its reason in `dtq.domain.plan.Reason`."""

    CLAIMED = "Claimed"
    ROW_MATCHES = "RowMatches"
    DECLARED = "Declared"
    SERVING = "Serving"
    ACCEPTING = "Accepting"
    WORKERS_READY = "WorkersReady"
    QUEUE_NOT_CONSUMED = "QueueNotConsumed"
    NO_HANDLER = "NoHandler"
    SCALED_TO_ZERO = "ScaledToZero"
    JUST_DECLARED = "JustDeclared"
    INACTIVE = "Inactive"
    PAUSED = "Paused"
    SETTLED = "Settled"
    MOVING_TASKS = "MovingTasks"
    NOT_ACCEPTED = "NotAccepted"
    INVALID_SPEC = "InvalidSpec"
    DATABASE_UNAVAILABLE = "DatabaseUnavailable"
    DATABASE_NOT_MIGRATED = "DatabaseNotMigrated"
    BROKER_UNREACHABLE = "BrokerUnreachable"
    ACCESS_REFUSED = "AccessRefused"
    ARGUMENT_MISMATCH = "ArgumentMismatch"
    PUBLISHED = "Published"
    OPERATOR_SCALING = "OperatorScaling"
    STATS_UNAVAILABLE = "StatsUnavailable"
    EXTERNALLY_MANAGED = "ExternallyManaged"
    TARGET_NOT_FOUND = "TargetNotFound"
    SCALING_FAILED = "ScalingFailed"
    DISABLED = "Disabled"
    TERMINATING = "Terminating"
    BACKEND_UNAVAILABLE = "BackendUnavailable"


class EventReason(StrEnum):
    """Reasons of Events about something that happened; an Event about a condition has the condition's reason."""

    DRIFT_REPAIRED = "DriftRepaired"
    EXTERNAL_RESOURCES_ORPHANED = "ExternalResourcesOrphaned"
    SCALED = "Scaled"


CONDITION_REASONS: Final = frozenset({*map(str, ConditionReason), *map(str, Reason)} - {str(Reason.STALE_GENERATION)})
"""Every reason that a condition may have; a stale generation is read again and never reported."""

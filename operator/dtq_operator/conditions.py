"""Conditions: the operator's findings as metav1 and kstatus conditions.

Equal findings give an equal status, so that no status is written twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dtq.domain.manifests import QueueSet, ScalingMode
from dtq.domain.plan import Reason, Refusal, told_waiting
from dtq.domain.serving import Gap, Served
from dtq_operator.reasons import CONDITION_REASONS, ConditionReason

USER_ERRORS: Final = frozenset(
    {
        Reason.NAME_CONFLICT,
        Reason.PREFIX_CONFLICT,
        Reason.UNMANAGED_EXISTS,
        Reason.INVALID_SCHEMA,
        Reason.INVALID_SCHEDULE,
        Reason.IMMUTABLE_FIELD,
    }
)
"""Refusals that only an edit can end: `Stalled` is true. The other refusals wait for something else to change."""
_WAITING: Final = {"Reconciling": "True", "Stalled": "False"}
_STALLED: Final = {"Reconciling": "False", "Stalled": "True"}
MESSAGE_CHARS_MAX: Final = 1_000
"""Longest message of a condition, in characters: a hostile schema must not fill etcd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One finding; `status` is `True`, `False` or `Unknown`, `reason` one of `CONDITION_REASONS`."""

    type: str
    status: str
    reason: str
    message: str = ""


def is_ready(obj: Mapping[str, Any]) -> bool:
    """Return whether an object is ready according to its status."""
    found = (obj.get("status") or {}).get("conditions") or []
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in found)


def is_accepted(obj: Mapping[str, Any]) -> bool:
    """Return whether an object owns its name according to its status; the loser of a conflict does not."""
    found = (obj.get("status") or {}).get("conditions") or []
    return any(condition.get("type") == "Accepted" and condition.get("status") != "False" for condition in found)


def merged(
    conditions: list[Condition], former: list[Mapping[str, Any]], generation: int, now: str
) -> list[dict[str, Any]]:
    """Return conditions for the status; `lastTransitionTime` changes only when a condition's status changes."""
    since = {
        condition["type"]: condition for condition in former if isinstance(condition, dict) and "type" in condition
    }
    out = []
    for condition in conditions:
        assert condition.reason in CONDITION_REASONS, condition.reason
        old = since.get(condition.type, {})
        moved = old.get("status") != condition.status or not old.get("lastTransitionTime")
        out.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": str(condition.reason),
                "message": condition.message[:MESSAGE_CHARS_MAX],
                "observedGeneration": generation,
                "lastTransitionTime": now if moved else old["lastTransitionTime"],
            }
        )
    return out


def serving(*, active: bool, served: Condition) -> list[Condition]:
    """A TaskType that is as declared; `served` is the condition that says whether workers run its tasks."""
    is_served = served.status == "True"
    if active:
        reason = ConditionReason.SERVING if is_served else ConditionReason.ACCEPTING
        message = "tasks of this type are accepted" + (
            " and run" if is_served else "; the condition Served says whether workers run them"
        )
    else:
        reason = ConditionReason.INACTIVE
        message = (
            f"new tasks are refused; accepted tasks {'run' if is_served else 'wait for a worker, see condition Served'}"
        )
    return [
        Condition(type="Accepted", status="True", reason=ConditionReason.CLAIMED),
        Condition(type="Synced", status="True", reason=ConditionReason.ROW_MATCHES),
        Condition(type="Ready", status="True", reason=reason, message=message),
        served,
        *_settled(),
    ]


def served(found: Served, *, where: str, is_new: bool, is_idle: bool, former: Sequence[Mapping[str, Any]]) -> Condition:
    """Whether workers run the tasks of a TaskType.

    Args:
        found: whether the type is served, according to the workers' rows.
        where: the type's queue, for messages.
        is_new: the type was declared just now: its workers may be starting.
        is_idle: its queue needs no worker.
        former: the current conditions: a type that was served and is idle now is scaled to zero.
    """
    if found.gap is None:
        message = "a live worker consumes the queue and handles the type"
        return Condition(type="Served", status="True", reason=ConditionReason.WORKERS_READY, message=message)
    before = {condition.get("reason") for condition in former if condition.get("type") == "Served"}
    was_served = found.since is not None or not before.isdisjoint(
        {ConditionReason.WORKERS_READY, ConditionReason.SCALED_TO_ZERO}
    )
    if found.gap is Gap.QUEUE_NOT_CONSUMED and is_idle and was_served:
        message = f"{where} is idle and needs no worker: its pool is scaled to zero"
        return Condition(type="Served", status="Unknown", reason=ConditionReason.SCALED_TO_ZERO, message=message)
    if is_new and not was_served:
        message = f"no worker of {where} handles the type yet"
        return Condition(type="Served", status="Unknown", reason=ConditionReason.JUST_DECLARED, message=message)
    since = f" since {found.since:%Y-%m-%dT%H:%M:%SZ}" if found.since else ""
    if found.gap is Gap.QUEUE_NOT_CONSUMED:
        message = f"no live worker consumes {where}{since}: start one with this queue in QUEUES"
    else:
        message = f"no live worker of {where} handles the type{since}: name the handler's module in WORKER_HANDLERS"
    return Condition(type="Served", status="False", reason=ConditionReason(found.gap), message=message)


def refused(refusal: Refusal, effect: str) -> list[Condition]:
    """A refused object; `effect` is the condition that would be true if it were applied."""
    stalled = refusal.reason in USER_ERRORS
    reason, message = str(refusal.reason), refusal.message
    return [
        Condition(type="Accepted", status="False", reason=reason, message=message),
        Condition(type=effect, status="False", reason=ConditionReason.NOT_ACCEPTED, message="nothing was changed"),
        *_alike({"Ready": "False"} | (_STALLED if stalled else _WAITING), reason, message),
    ]


def unavailable(effect: str, reason: str, message: str) -> list[Condition]:
    """An object whose backend does not answer: its earlier conditions may still be true."""
    more = {"Served": "Unknown"} if effect == "Synced" else {}
    statuses = {"Accepted": "Unknown", effect: "Unknown", "Ready": "False"} | more | _WAITING
    return _alike(statuses, reason, message)


def declared(*, queues: int, paused: bool, moving: Mapping[str, int]) -> list[Condition]:
    """A QueueSet whose topology is as declared; `moving` describes the tasks that wait in removed queues."""
    message = "no task starts until spec.paused is false" if paused else f"{queues} queue(s) are declared"
    return [
        Condition(type="Accepted", status="True", reason=ConditionReason.CLAIMED),
        Condition(type="TopologyDeclared", status="True", reason=ConditionReason.DECLARED),
        Condition(type="Ready", status="True", reason=ConditionReason.PAUSED if paused else "Serving", message=message),
        *(_moving(held) if (held := told_waiting(moving)) else _settled()),
    ]


def broker_trouble(reason: str, message: str) -> list[Condition]:
    """A QueueSet whose rows are written but whose topology differs from the declaration."""
    return [
        Condition(type="Accepted", status="True", reason=ConditionReason.CLAIMED),
        *_alike({"TopologyDeclared": "False", "Ready": "False"} | _STALLED, reason, message),
    ]


def invalid(kind: str, reason: str, message: str) -> list[Condition]:
    """An object that another release's definition accepted but this release's models refuse: it is not applied."""
    more = {"ScalingActive": "False"} if kind == "QueueSet" else {}
    return _alike({"Ready": "False"} | more | _STALLED, reason, message)


def deleting(reason: str, message: str) -> list[Condition]:
    """An object whose deletion waits for something."""
    return [
        Condition(type="Ready", status="False", reason=reason, message=message),
        Condition(type="Reconciling", status="True", reason=ConditionReason.TERMINATING, message=message),
    ]


def scaling(
    manifest: QueueSet, desired: Mapping[str, int], troubles: Mapping[str, tuple[ConditionReason, str]]
) -> Condition:
    """Whether the scaling of a QueueSet works; `troubles` holds reason and message by queue."""
    modes = {queue.scaling.mode for queue in manifest.spec.queues}
    acts = ScalingMode.OPERATOR in modes
    if modes == {ScalingMode.DISABLED}:
        found = ("Unknown", ConditionReason.DISABLED, "scaling.mode is Disabled")
    elif not desired:
        found = ("False", ConditionReason.STATS_UNAVAILABLE, "the backlog is unknown: replicas are not changed")
    elif acts and manifest.spec.paused:
        found = ("False", ConditionReason.PAUSED, "paused: replicas are not changed")
    elif troubles:
        reason = troubles[min(troubles)][0]
        found = ("False", reason, "; ".join(f"queue {queue}: {text}" for queue, (_, text) in sorted(troubles.items())))
    elif acts:
        found = ("True", ConditionReason.OPERATOR_SCALING, "the operator scales the Deployments that targetRef names")
    else:
        found = ("True", ConditionReason.PUBLISHED, "desiredReplicas are published")
    status, reason, message = found
    return Condition(type="ScalingActive", status=status, reason=reason, message=message)


def _settled() -> list[Condition]:
    return _alike({"Reconciling": "False", "Stalled": "False"}, ConditionReason.SETTLED)


def _moving(held: str) -> list[Condition]:
    message = f"tasks of removed queues are being moved to declared queues; left to move: {held}"
    return _alike(_WAITING, ConditionReason.MOVING_TASKS, message)


def _alike(statuses: Mapping[str, str], reason: str, message: str = "") -> list[Condition]:
    """Return conditions that differ only in type and status."""
    return [Condition(type=name, status=status, reason=reason, message=message) for name, status in statuses.items()]

"""Conditions: what the operator found, in the shape of metav1 and of kstatus.

Owns every condition type and reason. Pure: equal findings give an equal status, so nothing is written twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dtq.domain.plan import Reason, Refusal

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
"""Refusals that only an edit can end: `Stalled` is true. The others wait for something else to change."""
MESSAGE_CHARS_MAX: Final = 1_000
"""Longest message of a condition, in characters; a hostile schema must not fill etcd."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One finding; `status` is `True`, `False` or `Unknown`."""

    type: str
    status: str
    reason: str
    message: str = ""


def merged(
    conditions: list[Condition], former: list[Mapping[str, Any]], generation: int, now: str
) -> list[dict[str, Any]]:
    """Return conditions as status holds them; `lastTransitionTime` moves only when the answer does."""
    since = {one["type"]: one for one in former if isinstance(one, dict) and "type" in one}
    out = []
    for one in conditions:
        old = since.get(one.type, {})
        moved = old.get("status") != one.status or not old.get("lastTransitionTime")
        out.append(
            {
                "type": one.type,
                "status": one.status,
                "reason": one.reason,
                "message": one.message[:MESSAGE_CHARS_MAX],
                "observedGeneration": generation,
                "lastTransitionTime": now if moved else old["lastTransitionTime"],
            }
        )
    return out


def serving(*, active: bool) -> list[Condition]:
    """A TaskType that is as it should be."""
    ready = (
        Condition(type="Ready", status="True", reason="Serving", message="tasks of this type are accepted and run")
        if active
        else Condition(
            type="Ready", status="True", reason="Inactive", message="accepted tasks run, new ones are refused"
        )
    )
    return [
        Condition(type="Accepted", status="True", reason="Claimed"),
        Condition(type="Synced", status="True", reason="RowMatches"),
        ready,
        *_settled(),
    ]


def refused(refusal: Refusal, effect: str) -> list[Condition]:
    """An object about which nothing is done; `effect` is the condition that would say that it was."""
    stalled = refusal.reason in USER_ERRORS
    reason, message = str(refusal.reason), refusal.message
    return [
        Condition(type="Accepted", status="False", reason=reason, message=message),
        Condition(type=effect, status="False", reason="NotAccepted", message="nothing was changed"),
        Condition(type="Ready", status="False", reason=reason, message=message),
        *_progress(stalled=stalled, reason=reason, message=message),
    ]


def unavailable(effect: str, reason: str, message: str) -> list[Condition]:
    """An object whose backend does not answer: what was true may still be."""
    return [
        Condition(type="Accepted", status="Unknown", reason=reason, message=message),
        Condition(type=effect, status="Unknown", reason=reason, message=message),
        Condition(type="Ready", status="False", reason=reason, message=message),
        *_progress(stalled=False, reason=reason, message=message),
    ]


def declared(*, queues: int, paused: bool) -> list[Condition]:
    """A QueueSet whose topology is as it should be."""
    message = "no task is handed out until paused is false" if paused else f"{queues} queue(s) are served"
    return [
        Condition(type="Accepted", status="True", reason="Claimed"),
        Condition(type="TopologyDeclared", status="True", reason="Declared"),
        Condition(type="Ready", status="True", reason="Paused" if paused else "Serving", message=message),
        *_settled(),
    ]


def broker_trouble(reason: str, message: str, *, stalled: bool) -> list[Condition]:
    """A QueueSet whose rows are written and whose topology is not as it should be."""
    return [
        Condition(type="Accepted", status="True", reason="Claimed"),
        Condition(type="TopologyDeclared", status="False", reason=reason, message=message),
        Condition(type="Ready", status="False", reason=reason, message=message),
        *_progress(stalled=stalled, reason=reason, message=message),
    ]


def _settled() -> list[Condition]:
    return [
        Condition(type="Reconciling", status="False", reason="Settled"),
        Condition(type="Stalled", status="False", reason="Settled"),
    ]


def _progress(*, stalled: bool, reason: str, message: str) -> list[Condition]:
    waiting = "False" if stalled else "True"
    return [
        Condition(type="Reconciling", status=waiting, reason=reason, message=message),
        Condition(type="Stalled", status="True" if stalled else "False", reason=reason, message=message),
    ]

"""Plans: the steps for one object, decided from the desired and the observed state.

Every rule about names, adoption, immutability and deletion is here. `dtq_reconcile` observes before planning and
applies the plan, both for the operator and for `dtq apply`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Final

from dtq.domain.durations import show_duration
from dtq.domain.limits import WAITING_MAX
from dtq.domain.manifests import QueueSetDeletionPolicy, QueueType, TaskTypeDeletionPolicy
from dtq.domain.owners import EMBEDDED_UID, LOCAL_UID, Owner
from dtq.domain.rows import QueueRow, QueueSetRow, TaskTypeRow

_TYPES: Final = frozenset(QueueType)
ADOPT_ANNOTATION: Final = "dtq.dev/adopt"
"""`"true"` lets an object take over an unclaimed row that differs."""
FORCE_DELETE_ANNOTATION: Final = "dtq.dev/force-delete"
"""Its value must be the object's name: deletes queues that still hold messages."""


class Action(StrEnum):
    """What a step does."""

    CLAIM = "claim"
    CREATE = "create"
    UPDATE = "update"
    DECLARE = "declare"
    DEACTIVATE = "deactivate"
    DELETE = "delete"
    RELEASE = "release"


class Reason(StrEnum):
    """Why an object is refused: CamelCase, as conditions show it."""

    NAME_CONFLICT = "NameConflict"
    PREFIX_CONFLICT = "PrefixConflict"
    UNMANAGED_EXISTS = "UnmanagedExists"
    INVALID_SCHEMA = "InvalidSchema"
    INVALID_SCHEDULE = "InvalidSchedule"
    QUEUE_SET_NOT_FOUND = "QueueSetNotFound"
    QUEUE_NOT_DECLARED = "QueueNotDeclared"
    IMMUTABLE_FIELD = "ImmutableField"
    STALE_GENERATION = "StaleGeneration"
    IN_USE = "InUse"
    NOT_EMPTY = "NotEmpty"
    NEWER_RELEASE = "NewerRelease"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action on one resource; `detail` is for people."""

    action: Action
    target: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why an object is refused, and what to do about it."""

    reason: Reason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The steps, in order; empty if the object is refused or is already as desired."""

    steps: tuple[Step, ...] = ()
    refusal: Refusal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class References:
    """The result so far of a search for tasks of a type.

    Attributes:
        found: a task refers to the type.
        is_complete: a task was found, or every task was searched.
        share: how much was searched, 0..1.
    """

    found: bool
    is_complete: bool
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedTaskType:
    """The observed state of a task type.

    Attributes:
        queues: names of the queues of the set it refers to; None if there is no such set.
        queue_set_owner: who declared that set.
        references: the tasks that refer to it; None if they were not searched for.
    """

    claim: Owner | None = None
    row: TaskTypeRow | None = None
    queues: frozenset[str] | None = None
    queue_set_owner: Owner | None = None
    references: References | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedQueueSet:
    """The observed state of a queue set.

    Attributes:
        prefix_holder: the name of another set with the same prefix.
        prefix_owner: who declared that set.
        used_queues: queues that task types refer to.
        waiting: waiting tasks by queue: of the removed queues, or of all queues when the set is deleted.
        missing: names of broker queues that should exist and do not; None if the broker was not asked.
        ready: messages in each existing broker queue, by name.
    """

    claim: Owner | None = None
    row: QueueSetRow | None = None
    prefix_holder: str | None = None
    prefix_owner: Owner | None = None
    used_queues: frozenset[str] = frozenset()
    waiting: Mapping[str, int] = field(default_factory=dict)
    missing: frozenset[str] | None = None
    ready: dict[str, int] | None = None


def plan_task_type(desired: TaskTypeRow, owner: Owner, observed: ObservedTaskType, *, adopt: bool = False) -> Plan:
    """Return the plan that makes Postgres hold `desired`; the caller has checked schema and schedules."""
    refusal = (
        _claim_refusal(desired.type, owner, observed.claim)
        or _queue_set_refusal(desired, owner, observed)
        or _adoption_refusal(desired.type, observed.claim, observed.row, desired, adopt=adopt)
    )
    if refusal:
        return Plan(refusal=refusal)
    return Plan(steps=_steps(desired.type, owner, observed, desired))


def _queue_set_refusal(desired: TaskTypeRow, owner: Owner, observed: ObservedTaskType) -> Refusal | None:
    other = observed.queue_set_owner
    if observed.queues is not None and not owner.is_foreign_to(other):
        if desired.default_queue in observed.queues:
            return None
        known = ", ".join(sorted(observed.queues))
        message = (
            f"QueueSet {desired.queue_set!r} has no queue {desired.default_queue!r}: use one of its queues ({known})"
        )
        return Refusal(reason=Reason.QUEUE_NOT_DECLARED, message=message)
    message = f"QueueSet {desired.queue_set!r} is not declared: create it, or change queueSetRef"
    if observed.queues is not None and other is not None:
        message = (
            f"QueueSet {desired.queue_set!r} is {other.shown}, and a TaskType can only use a QueueSet of its own"
            f" namespace. Names of QueueSets are unique across namespaces: create a QueueSet with another name and"
            f" prefix in {owner.namespace} and name it in queueSetRef, or move this TaskType to {other.namespace}"
        )
    return Refusal(reason=Reason.QUEUE_SET_NOT_FOUND, message=message)


def plan_queue_set(desired: QueueSetRow, owner: Owner, observed: ObservedQueueSet, *, adopt: bool = False) -> Plan:
    """Return the plan that makes Postgres and RabbitMQ hold `desired`."""
    refusal = (
        _claim_refusal(desired.name, owner, observed.claim)
        or _prefix_refusal(desired, observed)
        or _immutability_refusal(desired, observed)
        or _adoption_refusal(desired.name, observed.claim, observed.row, desired, adopt=adopt)
    )
    if refusal:
        return Plan(refusal=refusal)
    declare = tuple(
        Step(action=Action.DECLARE, target=name, detail="missing in RabbitMQ")
        for name in sorted(observed.missing or ())
    )
    return Plan(steps=_steps(desired.name, owner, observed, desired) + declare)


def plan_task_type_deletion(row: TaskTypeRow | None, owner: Owner, observed: ObservedTaskType, name: str) -> Plan:
    """Return the plan for a task type whose object is being deleted."""
    if observed.claim is None or not owner.is_same_object(observed.claim):
        return Plan()
    release = Step(action=Action.RELEASE, target=name)
    if row is None or row.deletion_policy == TaskTypeDeletionPolicy.RETAIN:
        return Plan(steps=(release,))
    if refusal := _newer_refusal(row):
        return Plan(refusal=refusal)
    deactivate = Step(action=Action.DEACTIVATE, target=name, detail="new tasks are refused, accepted ones still run")
    if row.deletion_policy == TaskTypeDeletionPolicy.DEACTIVATE:
        return Plan(steps=((deactivate, release) if row.active else (release,)))
    if message := _in_use(observed.references, row):
        refusal = Refusal(reason=Reason.IN_USE, message=message)
        return Plan(steps=(deactivate,) if row.active else (), refusal=refusal)
    return Plan(steps=(Step(action=Action.DELETE, target=name), release))


def _in_use(references: References | None, row: TaskTypeRow) -> str:
    """Return why a type may not be deleted yet and what to do about it; empty if it may."""
    name = row.type
    if references is None:
        return f"the search for stored tasks of type {name} has not begun"
    if references.found:
        succeeded, failed = map(show_duration, (row.retention_succeeded_seconds, row.retention_failed_seconds))
        return (
            f"tasks of type {name} are still stored. The type is deleted once the last one has ended and its retention"
            f" is over: {succeeded} for a succeeded task, {failed} for a failed one. To end the wait now, set"
            " deletionPolicy to Deactivate: the type keeps refusing new tasks, and its row stays"
        )
    if not references.is_complete:
        return f"searching for tasks of type {name}: {references.share:.0%} of all tasks are searched"
    return ""


def plan_queue_set_deletion(
    row: QueueSetRow | None, owner: Owner, observed: ObservedQueueSet, name: str, *, force: bool = False
) -> Plan:
    """Return the plan for a queue set whose object is being deleted."""
    if observed.claim is None or not owner.is_same_object(observed.claim):
        return Plan()
    release = Step(action=Action.RELEASE, target=name)
    if row is None or row.deletion_policy == QueueSetDeletionPolicy.RETAIN:
        return Plan(steps=(release,))
    if (
        refusal := _newer_refusal(row)
        or _used_refusal(observed, name)
        or _full_refusal(row, observed, name, force=force)
    ):
        return Plan(refusal=refusal)
    return Plan(steps=(Step(action=Action.DELETE, target=name), release))


def _used_refusal(observed: ObservedQueueSet, name: str) -> Refusal | None:
    """Refuse to delete a set whose tasks would then wait for ever; messages may be deleted, accepted tasks may not."""
    if observed.used_queues:
        return Refusal(reason=Reason.IN_USE, message=f"task types still refer to QueueSet {name}: delete them first")
    if held := told_waiting(observed.waiting):
        message = f"tasks still wait in queues of QueueSet {name}: {held}; let them run, or cancel them"
        return Refusal(reason=Reason.IN_USE, message=message)
    return None


def _full_refusal(row: QueueSetRow, observed: ObservedQueueSet, name: str, *, force: bool) -> Refusal | None:
    full = sorted(queue for queue, ready in (observed.ready or {}).items() if ready)
    if not full or (row.deletion_policy == QueueSetDeletionPolicy.DELETE and force):
        return None
    message = (
        f"queues still hold messages: {', '.join(full)}; let them drain, or set deletionPolicy Delete and the "
        f'annotation {FORCE_DELETE_ANNOTATION}: "{name}"'
    )
    return Refusal(reason=Reason.NOT_EMPTY, message=message)


def _newer_refusal(row: TaskTypeRow | QueueSetRow) -> Refusal | None:
    """Refuse to delete a row that only a newer release understands."""
    unknown = []
    policies = TaskTypeDeletionPolicy if isinstance(row, TaskTypeRow) else QueueSetDeletionPolicy
    if row.deletion_policy not in set(policies):
        unknown.append(f"deletionPolicy {row.deletion_policy}")
    if isinstance(row, QueueSetRow):
        unknown += [f"type {queue.type} of queue {queue.name}" for queue in row.queues if queue.type not in _TYPES]
    if not unknown:
        return None
    message = (
        f"{', '.join(unknown)}: known only to a newer release; the deletion waits for an operator of that release, or"
        " for a deletionPolicy that this release knows"
    )
    return Refusal(reason=Reason.NEWER_RELEASE, message=message)


def _claim_refusal(name: str, owner: Owner, claim: Owner | None) -> Refusal | None:
    if claim is None or claim.uid == EMBEDDED_UID or (claim.uid == LOCAL_UID and owner.uid != LOCAL_UID):
        return None
    if not owner.is_same_object(claim):
        message = (
            f"the name {name} already belongs to {claim.shown}. Names are unique in the whole installation, across"
            " namespaces: choose another name, or delete that object"
        )
        return Refusal(reason=Reason.NAME_CONFLICT, message=message)
    if owner.uid == claim.uid and owner.generation < claim.generation:
        message = f"generation {claim.generation} is already applied; this is the older generation {owner.generation}"
        return Refusal(reason=Reason.STALE_GENERATION, message=message)
    return None


def _prefix_refusal(desired: QueueSetRow, observed: ObservedQueueSet) -> Refusal | None:
    if observed.prefix_holder is None:
        return None
    holder = f"QueueSet {observed.prefix_holder}"
    if observed.prefix_owner is not None:
        holder += f", which is {observed.prefix_owner.shown}"
    message = (
        f"spec.namespace {desired.namespace!r} is the prefix of {holder}. A prefix belongs to one QueueSet:"
        " choose another prefix, or delete that QueueSet"
    )
    return Refusal(reason=Reason.PREFIX_CONFLICT, message=message)


def _immutability_refusal(desired: QueueSetRow, observed: ObservedQueueSet) -> Refusal | None:
    row = observed.row
    if row is None:
        return None
    changed = ["namespace"] if row.namespace != desired.namespace else []
    before = {queue.name: queue for queue in row.queues}
    for queue in desired.queues:
        changed += _changed_arguments(before.get(queue.name), queue)
    if changed:
        message = (
            f"{', '.join(changed)} cannot be changed, since RabbitMQ keeps a queue's arguments:"
            " declare it under a new name"
        )
        return Refusal(reason=Reason.IMMUTABLE_FIELD, message=message)
    gone = sorted((before.keys() - {queue.name for queue in desired.queues}) & observed.used_queues)
    if gone:
        message = f"task types still use queue {', '.join(gone)}: move them to another queue first"
        return Refusal(reason=Reason.IN_USE, message=message)
    if desired.removal_queue is None and (held := told_waiting(observed.waiting)):
        message = (
            f"tasks wait in queues that the manifest removes: {held}; let them run, or set onRemoval: "
            f"{{policy: MoveTo, queue: NAME}}"
        )
        return Refusal(reason=Reason.IN_USE, message=message)
    return None


def removed_queues(row: QueueSetRow | None, desired: QueueSetRow) -> list[str]:
    """Return the queues of a set that are no longer declared."""
    kept = {queue.name for queue in desired.queues}
    return [queue.name for queue in row.queues if queue.name not in kept] if row else []


def told_waiting(waiting: Mapping[str, int]) -> str:
    """Return the number of waiting tasks by queue, as text; empty if no task waits."""
    most = WAITING_MAX
    return ", ".join(
        f"{queue} ({f'{most} or more' if count >= most else count})"
        for queue, count in sorted(waiting.items())
        if count
    )


def _changed_arguments(before: QueueRow | None, queue: QueueRow) -> list[str]:
    if before is None:
        return []
    pairs = (("type", before.type, queue.type), ("maxLength", before.max_length, queue.max_length))
    return [f"queues[{queue.name}].{name}" for name, old, new in pairs if old != new]


def _adoption_refusal(name: str, claim: Owner | None, row: Any, desired: Any, *, adopt: bool) -> Refusal | None:
    if claim is not None or row is None or row == desired or adopt:
        return None
    if isinstance(row, TaskTypeRow) and not row.active:
        return None  # released by an earlier object: the type accepts no tasks, so no client notices a change
    message = (
        f"{name} exists without an owner and differs in {differences(row, desired)}: "
        f'change the manifest to match, or set the annotation {ADOPT_ANNOTATION}: "true"'
    )
    return Refusal(reason=Reason.UNMANAGED_EXISTS, message=message)


def _steps(
    name: str, owner: Owner, observed: ObservedTaskType | ObservedQueueSet, desired: TaskTypeRow | QueueSetRow
) -> tuple[Step, ...]:
    claim = () if observed.claim == owner else (Step(action=Action.CLAIM, target=name),)
    if observed.row is None:
        return (*claim, Step(action=Action.CREATE, target=name))
    if observed.row != desired:
        return (*claim, Step(action=Action.UPDATE, target=name, detail=differences(observed.row, desired)))
    return claim


def differences(row: Any, desired: Any) -> str:
    """Return the names of the fields in which two rows of the same kind differ."""
    return ", ".join(field.name for field in fields(row) if getattr(row, field.name) != getattr(desired, field.name))

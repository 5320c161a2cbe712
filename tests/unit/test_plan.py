"""Plans: for any desired and observed state, no owner loses its objects, and an applied plan leaves nothing to do."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.owners import EMBEDDED_UID, LOCAL_UID, Owner
from dtq.domain.plan import (
    Action,
    ObservedQueueSet,
    ObservedTaskType,
    Plan,
    Reason,
    References,
    plan_queue_set,
    plan_queue_set_deletion,
    plan_task_type,
    plan_task_type_deletion,
)
from dtq.domain.rows import QueueRow, QueueSetRow, TaskTypeRow

NAME = "email.send.v1"
uids = st.sampled_from(["a", "b", LOCAL_UID, EMBEDDED_UID])
owners = st.builds(
    Owner,
    uid=uids,
    namespace=st.sampled_from(["prod", "staging"]),
    name=st.sampled_from([NAME, "other"]),
    generation=st.integers(0, 3),
)
callers = st.builds(
    Owner,
    uid=st.sampled_from(["a", "b", LOCAL_UID]),
    namespace=st.sampled_from(["prod", "staging"]),
    name=st.sampled_from([NAME, "other"]),
    generation=st.integers(0, 3),
)
types = st.builds(
    TaskTypeRow,
    type=st.just(NAME),
    active=st.booleans(),
    default_queue=st.sampled_from(["high", "low"]),
    default_max_attempts=st.integers(1, 20),
    payload_schema=st.none() | st.just({"type": "object"}),
    queue_set=st.just("default"),
    timeout_seconds=st.just(60),
    backoff=st.none(),
    max_payload_bytes=st.just(1000),
    retention_succeeded_seconds=st.just(0),
    retention_failed_seconds=st.just(0),
    deletion_policy=st.sampled_from(["Deactivate", "Retain", "Delete"]),
    concurrency=st.none() | st.just({"limit": 1}),
)
queues = st.builds(
    QueueRow,
    name=st.sampled_from(["high", "low", "bulk"]),
    type=st.sampled_from(["Quorum", "Classic"]),
    max_length=st.none() | st.just(10),
    scaling=st.just({}),
)
sets = st.builds(
    QueueSetRow,
    name=st.just("default"),
    namespace=st.sampled_from(["tasks", "jobs"]),
    retry_delays_seconds=st.just((5,)),
    dead_letter=st.booleans(),
    paused=st.booleans(),
    deletion_policy=st.sampled_from(["Retain", "DeleteIfEmpty", "Delete"]),
    removal_queue=st.none() | st.just("high"),
    queues=st.lists(queues, min_size=1, max_size=3, unique_by=lambda queue: queue.name).map(tuple),
)
observed_types = st.builds(
    ObservedTaskType,
    claim=st.none() | owners,
    row=st.none() | types,
    queues=st.none() | st.frozensets(st.sampled_from(["high", "low"])),
    queue_set_owner=st.none() | owners,
    references=st.none() | st.builds(References, found=st.booleans(), is_complete=st.booleans(), share=st.floats(0, 1)),
)
observed_sets = st.builds(
    ObservedQueueSet,
    claim=st.none() | owners,
    row=st.none() | sets,
    prefix_holder=st.none() | st.just("another"),
    used_queues=st.frozensets(st.sampled_from(["high", "low", "bulk"])),
    missing=st.none() | st.frozensets(st.just("tasks.high")),
    ready=st.none() | st.dictionaries(st.sampled_from(["tasks.high", "tasks.dlq"]), st.integers(0, 2)),
)


def actions(plan: Plan) -> list[Action]:
    return [step.action for step in plan.steps]


@given(desired=types, owner=callers, observed=observed_types, adopt=st.booleans())
def test_a_task_type_that_is_refused_has_no_effect(
    desired: TaskTypeRow, owner: Owner, observed: ObservedTaskType, *, adopt: bool
) -> None:
    plan = plan_task_type(desired, owner, observed, adopt=adopt)
    assert plan.refusal is None or plan.steps == ()


@given(desired=types, owner=callers, observed=observed_types, adopt=st.booleans())
def test_a_plan_that_was_carried_out_leaves_nothing_to_do(
    desired: TaskTypeRow, owner: Owner, observed: ObservedTaskType, *, adopt: bool
) -> None:
    plan = plan_task_type(desired, owner, observed, adopt=adopt)
    if plan.refusal is None:
        assert plan_task_type(desired, owner, replace(observed, claim=owner, row=desired), adopt=adopt) == Plan()


@given(desired=sets, owner=callers, observed=observed_sets, adopt=st.booleans())
def test_a_queue_set_that_was_carried_out_leaves_nothing_to_do(
    desired: QueueSetRow, owner: Owner, observed: ObservedQueueSet, *, adopt: bool
) -> None:
    plan = plan_queue_set(desired, owner, observed, adopt=adopt)
    if plan.refusal is None:
        done = replace(observed, claim=owner, row=desired, missing=frozenset())
        assert plan_queue_set(desired, owner, done, adopt=adopt) == Plan()


@given(desired=types, uid=uids, namespace=st.sampled_from(["prod", "staging"]), observed=observed_types)
def test_the_loser_of_a_conflict_never_has_an_effect(
    desired: TaskTypeRow, uid: str, namespace: str, observed: ObservedTaskType
) -> None:
    claim = Owner(uid="winner", namespace="prod", name="theirs")
    loser = Owner(uid=uid, namespace=namespace, name=NAME)
    seen = replace(observed, claim=claim)
    plan = plan_task_type(desired, loser, seen)
    assert plan.refusal is not None
    assert plan.refusal.reason is Reason.NAME_CONFLICT
    assert plan_task_type_deletion(observed.row, loser, seen, NAME) == Plan()
    assert "prod/theirs" in plan.refusal.message, "the way out begins with the object that has the name"
    assert "across namespaces" in plan.refusal.message


@given(desired=types, owner=callers, observed=observed_types)
def test_an_older_generation_never_overwrites_a_newer_one(
    desired: TaskTypeRow, owner: Owner, observed: ObservedTaskType
) -> None:
    newer = replace(observed, claim=replace(owner, generation=owner.generation + 1))
    plan = plan_task_type(desired, owner, newer)
    if owner.uid != LOCAL_UID:
        assert plan.refusal is not None
        assert plan.refusal.reason is Reason.STALE_GENERATION


@given(desired=types, observed=observed_types, theirs=st.sampled_from(["prod", "staging"]))
def test_a_task_type_sees_the_queue_sets_of_its_own_namespace_only(
    desired: TaskTypeRow, observed: ObservedTaskType, theirs: str
) -> None:
    owner = Owner(uid="a", namespace="prod", name=NAME)
    seen = replace(
        observed,
        claim=None,
        row=None,
        queues=frozenset({"high", "low"}),
        queue_set_owner=Owner(uid="q", namespace=theirs, name="default"),
    )
    plan = plan_task_type(desired, owner, seen)
    reason = plan.refusal and plan.refusal.reason
    assert reason == (None if theirs == "prod" else Reason.QUEUE_SET_NOT_FOUND)


@pytest.mark.parametrize("uid", [LOCAL_UID, EMBEDDED_UID])
def test_a_queue_set_that_no_cluster_declared_is_everybodys(uid: str) -> None:
    row = TaskTypeRow(
        type=NAME, active=True, default_queue="high", default_max_attempts=5, payload_schema=None, queue_set="default",
        timeout_seconds=60, backoff=None, max_payload_bytes=10, retention_succeeded_seconds=0,
        retention_failed_seconds=0, deletion_policy="Retain",
    )  # fmt: skip
    seen = ObservedTaskType(queues=frozenset({"high"}), queue_set_owner=Owner(uid=uid, namespace="x", name="default"))
    assert actions(plan_task_type(row, Owner(uid="a", namespace="prod", name=NAME), seen)) == ["claim", "create"]


@given(desired=sets, row=sets, owner=callers, observed=observed_sets)
def test_what_the_broker_cannot_change_is_refused(
    desired: QueueSetRow, row: QueueSetRow, owner: Owner, observed: ObservedQueueSet
) -> None:
    before = {queue.name: queue for queue in row.queues}
    changed = desired.namespace != row.namespace or any(
        (queue.type, queue.max_length) != (before[queue.name].type, before[queue.name].max_length)
        for queue in desired.queues
        if queue.name in before
    )
    plan = plan_queue_set(desired, owner, replace(observed, row=row), adopt=True)
    assert plan.refusal is not None or not changed


@given(
    row=st.none() | sets,
    owner=callers,
    observed=observed_sets,
    waiting=st.dictionaries(st.sampled_from(["high", "low"]), st.integers(0, 2)),
    force=st.booleans(),
)
def test_queues_with_messages_or_users_are_never_deleted_unasked(
    row: QueueSetRow | None, owner: Owner, observed: ObservedQueueSet, waiting: dict[str, int], *, force: bool
) -> None:
    observed = replace(observed, waiting=waiting)
    plan = plan_queue_set_deletion(row, owner, observed, "default", force=force)
    if Action.DELETE in actions(plan):
        assert row is not None
        assert row.deletion_policy != "Retain"
        assert not observed.used_queues
        assert not any(observed.waiting.values())
        assert not any((observed.ready or {}).values()) or (force and row.deletion_policy == "Delete")
        assert observed.claim is not None
        assert owner.is_same_object(observed.claim)


@given(row=st.none() | types, owner=callers, observed=observed_types)
def test_a_type_with_tasks_is_never_deleted(row: TaskTypeRow | None, owner: Owner, observed: ObservedTaskType) -> None:
    plan = plan_task_type_deletion(row, owner, observed, NAME)
    if Action.DELETE in actions(plan):
        assert row is not None
        assert row.deletion_policy == "Delete"
        assert observed.references is not None
        assert observed.references.is_complete
        assert not observed.references.found
    if plan.steps and plan.refusal is None:
        assert actions(plan)[-1] is Action.RELEASE, "the name is let go of last"


SET = QueueSetRow(
    name="default",
    namespace="tasks",
    retry_delays_seconds=(5,),
    dead_letter=True,
    paused=False,
    deletion_policy="Delete",
    removal_queue=None,
    queues=(QueueRow(name="high", type="Quorum", max_length=None, scaling={}),),
)
TYPE_ROW = TaskTypeRow(
    type=NAME,
    active=True,
    default_queue="high",
    default_max_attempts=5,
    payload_schema=None,
    queue_set="default",
    timeout_seconds=60,
    backoff=None,
    max_payload_bytes=1000,
    retention_succeeded_seconds=7 * 86_400,
    retention_failed_seconds=90 * 60,
    deletion_policy="Delete",
)
OURS = Owner(uid="ours", namespace="shop", name=NAME)


def refusal_of(plan: Plan) -> tuple[Reason, str]:
    assert plan.refusal is not None
    return plan.refusal.reason, plan.refusal.message


def test_a_type_beside_a_set_of_another_namespace_is_told_how_names_are_scoped() -> None:
    holder = Owner(uid="theirs", namespace="billing", name="default")
    seen = ObservedTaskType(queues=frozenset({"high"}), queue_set_owner=holder)
    reason, message = refusal_of(plan_task_type(TYPE_ROW, OURS, seen))
    assert reason is Reason.QUEUE_SET_NOT_FOUND
    assert "billing/default" in message
    assert "unique across namespaces" in message
    assert "create it" not in message, "a set of that name would only conflict"


def test_a_type_without_any_set_of_that_name_is_told_to_create_it() -> None:
    reason, message = refusal_of(plan_task_type(TYPE_ROW, OURS, ObservedTaskType()))
    assert (reason, "create it" in message) == (Reason.QUEUE_SET_NOT_FOUND, True)


@pytest.mark.parametrize(
    ("holder", "told"),
    [
        (Owner(uid="theirs", namespace="billing", name="second"), "billing/second in the cluster"),
        (Owner(uid=LOCAL_UID, namespace="default", name="second"), "default/second of `dtq apply`"),
        (None, "QueueSet second"),
    ],
)
def test_a_prefix_conflict_names_the_other_set(holder: Owner | None, told: str) -> None:
    seen = ObservedQueueSet(prefix_holder="second", prefix_owner=holder)
    reason, message = refusal_of(plan_queue_set(SET, OURS, seen))
    assert reason is Reason.PREFIX_CONFLICT
    assert told in message


def test_a_deletion_that_waits_for_stored_tasks_says_how_long_and_the_way_out() -> None:
    stored = References(found=True, is_complete=True, share=1.0)
    plan = plan_task_type_deletion(TYPE_ROW, OURS, ObservedTaskType(claim=OURS, row=TYPE_ROW, references=stored), NAME)
    reason, message = refusal_of(plan)
    assert reason is Reason.IN_USE
    for word in ("7 days for a succeeded task", "90 minutes for a failed one", "deletionPolicy to Deactivate"):
        assert word in message


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (replace(TYPE_ROW, deletion_policy="Archive"), "deletionPolicy Archive"),
        (replace(SET, deletion_policy="Archive"), "deletionPolicy Archive"),
        (
            replace(SET, queues=(*SET.queues, QueueRow(name="log", type="Stream", max_length=None, scaling={}))),
            "type Stream of queue log",
        ),
    ],
)
def test_nothing_is_deleted_that_only_a_newer_release_understands(row: TaskTypeRow | QueueSetRow, word: str) -> None:
    if isinstance(row, TaskTypeRow):
        plan = plan_task_type_deletion(row, OURS, ObservedTaskType(claim=OURS, row=row), NAME)
    else:
        plan = plan_queue_set_deletion(row, OURS, ObservedQueueSet(claim=OURS, row=row), NAME)
    assert plan.steps == ()
    reason, message = refusal_of(plan)
    assert reason is Reason.NEWER_RELEASE
    assert word in message

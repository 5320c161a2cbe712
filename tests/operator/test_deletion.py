"""Deletion: the finalizer is there exactly while the policy needs it, nothing is lost, and nothing waits for ever."""

import pytest

from dtq_operator.reconciler import FINALIZER
from tests.operator.conftest import Start
from tests.operator.switchable_proxy import SwitchableProxy
from tests.operator.world import TYPE, World
from tests.support.waiting import CHANGE_SECONDS, eventually


@pytest.mark.parametrize(("policy", "finalizers"), [("Deactivate", []), ("Retain", []), ("Delete", [FINALIZER])])
async def test_a_task_type_has_a_finalizer_only_if_its_policy_needs_one(
    world: World, start: Start, policy: str, finalizers: list[str]
) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy=policy))
    assert await world.finalizers(world.task_type()) == finalizers


@pytest.mark.parametrize(
    ("policy", "finalizers"), [("Retain", []), ("DeleteIfEmpty", [FINALIZER]), ("Delete", [FINALIZER])]
)
async def test_a_queue_set_has_a_finalizer_only_if_its_policy_needs_one(
    world: World, start: Start, policy: str, finalizers: list[str]
) -> None:
    await start()
    await world.create_ready(world.queue_set(deletionPolicy=policy))
    assert await world.finalizers(world.queue_set()) == finalizers


async def test_a_changed_policy_moves_the_finalizer_and_leaves_those_of_others(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await world.patch(world.task_type(), {"metadata": {"finalizers": ["example.com/other"]}})
    await world.patch(world.task_type(), {"spec": {"deletionPolicy": "Delete"}})
    await world.until(world.task_type(), "Ready", "True")
    assert sorted(await world.finalizers(world.task_type())) == [FINALIZER, "example.com/other"]
    await world.patch(world.task_type(), {"spec": {"deletionPolicy": "Retain"}})
    await world.until(world.task_type(), "Ready", "True")
    assert await world.finalizers(world.task_type()) == ["example.com/other"]


async def test_a_deleted_task_type_is_deactivated_and_its_name_is_free(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await world.delete(world.task_type())
    await world.until_unclaimed("TaskType", TYPE)
    row = await world.row()
    assert row is not None
    assert not row["active"]


async def test_a_retained_task_type_goes_on_as_it_was(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy="Retain"))
    await world.delete(world.task_type())
    await world.until_unclaimed("TaskType", TYPE)
    row = await world.row()
    assert row is not None
    assert row["active"]


async def test_a_task_type_is_deleted_once_no_task_refers_to_it(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy="Delete"))
    await world.add_task()
    await world.delete(world.task_type())
    await world.until(world.task_type(), "Ready", "False", "InUse")
    row = await world.row()
    assert row is not None
    assert not row["active"], "nothing new is taken meanwhile"
    await world.sql("DELETE FROM tasks")
    await world.until_gone(world.task_type())
    assert await world.row() is None


async def test_a_deletion_that_waits_follows_an_edited_policy(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy="Delete"))
    await world.add_task()
    await world.delete(world.task_type())
    await world.until(world.task_type(), "Ready", "False", "InUse")
    await world.patch(world.task_type(), {"spec": {"deletionPolicy": "Retain"}})
    await world.until_gone(world.task_type())
    assert await world.row() is not None


async def test_nothing_is_made_again_for_an_object_that_is_being_deleted(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    await world.patch(world.queue_set(), {"metadata": {"finalizers": [FINALIZER, "example.com/other"]}})
    await world.delete(world.queue_set())

    async def is_let_go_of() -> bool:
        return await world.finalizers(world.queue_set()) == ["example.com/other"]

    await eventually(is_let_go_of, "our finalizer is gone", CHANGE_SECONDS)
    await world.patch(world.queue_set(), {"spec": {"queues": [{"name": "default"}, {"name": "late"}]}})
    await world.patch(world.queue_set(), {"metadata": {"finalizers": None}})
    await world.until_gone(world.queue_set())
    assert await world.queues() == {}
    assert await world.exchanges() == set()


async def test_queues_that_hold_messages_are_deleted_only_when_told_so_by_name(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(deletionPolicy="Delete"))
    await world.publish("tasks.default")
    await world.delete(world.queue_set())
    found = await world.until(world.queue_set(), "Ready", "False", "NotEmpty")
    assert 'dtq.dev/force-delete: "default"' in str(found["status"]["conditions"])
    await world.patch(world.queue_set(), {"metadata": {"annotations": {"dtq.dev/force-delete": "another"}}})
    await world.until(world.queue_set(), "Ready", "False", "NotEmpty")
    assert "tasks.default" in await world.queues()
    await world.patch(world.queue_set(), {"metadata": {"annotations": {"dtq.dev/force-delete": "default"}}})
    await world.until_gone(world.queue_set())
    assert await world.queues() == {}


async def test_a_retained_queue_set_leaves_its_queues(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set())
    await world.publish("tasks.default")
    await world.delete(world.queue_set())
    await world.until_unclaimed("QueueSet", "default")
    assert "tasks.default" in await world.queues()


@pytest.mark.parametrize("backend", ["postgres", "rabbitmq"])
async def test_a_deletion_waits_for_a_backend_and_ends_once_it_is_back(
    postgres_proxy: SwitchableProxy, rabbitmq_proxy: SwitchableProxy, world: World, start: Start, backend: str
) -> None:
    await start(**world.through(postgres_proxy, rabbitmq_proxy))
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    proxy = {"postgres": postgres_proxy, "rabbitmq": rabbitmq_proxy}[backend]
    await proxy.shut()
    await world.delete(world.queue_set())
    await world.until(world.queue_set(), "Ready", "False", "BackendUnavailable")
    await proxy.open()
    await world.until_gone(world.queue_set())
    assert await world.queues() == {}
    assert await world.claims() == {}


@pytest.mark.parametrize("backend", ["postgres", "rabbitmq"])
async def test_a_deletion_gives_up_on_a_backend_and_says_so(
    postgres_proxy: SwitchableProxy, rabbitmq_proxy: SwitchableProxy, world: World, start: Start, backend: str
) -> None:
    await start(**world.through(postgres_proxy, rabbitmq_proxy), DTQ_DELETE_GIVE_UP="1s")
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    await {"postgres": postgres_proxy, "rabbitmq": rabbitmq_proxy}[backend].shut()
    await world.delete(world.queue_set())
    await world.until_gone(world.queue_set())
    assert "Postgres or RabbitMQ did not answer" in await world.until_event(
        world.queue_set(), "ExternalResourcesOrphaned"
    )
    assert "tasks.default" in await world.queues()


async def test_an_object_deleted_while_nobody_watched_is_let_go_of(world: World, start: Start) -> None:
    first = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await first.end()
    await world.delete(world.task_type())
    await start()
    await world.until_unclaimed("TaskType", TYPE)
    row = await world.row()
    assert row is not None
    assert not row["active"]


async def test_a_flood_of_orphans_is_a_wrong_setting_and_nothing_is_let_go_of(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set())
    await world.sql(
        "INSERT INTO resource_claim (kind, key, owner_uid, owner_namespace, owner_name)"
        " SELECT 'TaskType', 'lost.t' || n, 'uid' || n, $1, 'lost.t' || n FROM generate_series(1, 6) n",
        world.namespace,
    )
    for _ in range(3):
        await running.sweep()
    assert running.operator.sweep.is_flooded
    assert running.metric("dq_operator_orphans") == 6
    assert len(await world.claims()) == 7
    await world.sql("DELETE FROM resource_claim WHERE key = 'lost.t1'")

    async def are_let_go_of() -> bool:
        await running.sweep()
        return await world.claims() == {("QueueSet", "default"): world.namespace}

    await eventually(are_let_go_of, "five orphans are let go of", CHANGE_SECONDS)


async def test_an_object_created_again_takes_its_name_over(world: World, start: Start) -> None:
    first = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await first.end()
    before = await world.get(world.task_type())
    await world.delete(world.task_type())
    await world.create(world.task_type(maxAttempts=9))
    await start()
    after = await world.until(world.task_type(), "Ready", "True")
    assert before is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert [
        row["owner_uid"] for row in await world.sql("SELECT owner_uid FROM resource_claim WHERE key = $1", TYPE)
    ] == [after["metadata"]["uid"]]
    row = await world.row()
    assert row is not None
    assert (row["active"], row["default_max_attempts"]) == (True, 9)


async def test_the_loser_of_a_name_leaves_no_trace_and_the_heir_of_the_winner_is_the_loser(
    world: World, start: Start
) -> None:
    other = await world.another_namespace()
    await start()
    theirs = world.moved(world.queue_set("theirs", namespace="jobs"), other)
    await world.create_ready(world.queue_set(), world.task_type(maxAttempts=3), theirs)
    loser = world.moved(world.task_type(maxAttempts=8, deletionPolicy="Delete", queueSetRef={"name": "theirs"}), other)
    await world.create(loser)
    found = await world.until(loser, "Accepted", "False", "NameConflict")
    assert f"{world.namespace}/{loser['metadata']['name']}" in str(found["status"]), "the owner of the name is told"
    assert await world.finalizers(loser) == []
    await world.delete(loser)
    await world.until_gone(loser)
    row = await world.row()
    assert row is not None
    assert (row["active"], row["default_max_attempts"]) == (True, 3)
    assert (await world.claims())["TaskType", TYPE] == world.namespace

    await world.create(loser)
    await world.until(loser, "Accepted", "False", "NameConflict")
    await world.delete(world.task_type())
    await world.until(loser, "Ready", "True")
    row = await world.row()
    assert row is not None
    assert (row["active"], row["default_max_attempts"]) == (True, 8)
    assert (await world.claims())["TaskType", TYPE] == other


async def test_a_queue_set_of_another_namespace_is_not_seen(world: World, start: Start) -> None:
    other = await world.another_namespace()
    await start()
    await world.create_ready(world.queue_set())
    foreign = world.moved(world.task_type("report.build.v1"), other)
    await world.create(foreign)
    await world.until(foreign, "Accepted", "False", "QueueSetNotFound")
    assert await world.row("report.build.v1") is None

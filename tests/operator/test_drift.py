"""Drift: changes made outside the operator are repaired, and nothing is written while nothing changes."""

import asyncio

import pytest

from dtq.domain.manifests import TaskType
from dtq.domain.owners import Owner
from dtq.domain.plan import Plan, Reason
from dtq_db.connections import Database
from dtq_operator.store import key_of
from dtq_reconcile.task_types import reconcile_task_type
from tests.operator.conftest import Start
from tests.operator.world import World
from tests.support.kube_proxy import KubeProxy
from tests.support.waiting import CHANGE_SECONDS, eventually


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE task_type SET default_max_attempts = 1",
        "UPDATE task_type SET active = false",
        "DELETE FROM task_type",
        "DELETE FROM resource_claim WHERE kind = 'TaskType'; UPDATE task_type SET timeout_seconds = 1",
    ],
)
async def test_a_row_edited_by_hand_is_mended(world: World, start: Start, edit: str) -> None:
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    before = await world.row()
    claimed = await world.claims()
    if "resource_claim" in edit:
        await world.patch(world.task_type(), {"metadata": {"annotations": {"dtq.dev/adopt": "true"}}})

        async def may_adopt() -> bool:
            known = running.operator.store.get(key_of("TaskType", world.task_type()))
            return known is not None and "dtq.dev/adopt" in known["metadata"].get("annotations", {})

        await eventually(may_adopt, "the operator knows that it may adopt the row", CHANGE_SECONDS)
        await running.idle()
    for statement in edit.split(";"):
        await world.sql(statement)

    async def is_mended() -> bool:
        row = await world.row()
        ignored = {"updated_at", "created_at", "revision"}
        return (
            row is not None
            and before is not None
            and {name: value for name, value in row.items() if name not in ignored}
            == {name: value for name, value in before.items() if name not in ignored}
        )

    await eventually(is_mended, "the row is as before", CHANGE_SECONDS)
    await world.until_event(world.task_type(), "DriftRepaired")
    assert running.metric("dq_operator_drift_repairs_total", kind="TaskType") == 1
    assert await world.claims() == claimed


async def test_a_queue_deleted_by_hand_comes_back(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set())
    before = set(await world.queues())
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default")

    async def is_back() -> bool:
        return set(await world.queues()) == before

    await eventually(is_back, "the queue is back", CHANGE_SECONDS)
    assert "tasks.default" in await world.until_event(world.queue_set(), "DriftRepaired")
    assert running.metric("dq_operator_drift_repairs_total", kind="QueueSet") >= 1


async def test_the_dead_letters_of_a_queue_that_the_operator_declares_again_are_due_again(
    world: World, start: Start
) -> None:
    running = await start()
    await world.create_ready(world.queue_set())
    await world.enqueue(1)
    await world.sql(
        "UPDATE tasks SET status = 'FAILED', needs_publish = NULL, publish_at = NULL, failed_at = now(),"
        " dead_lettered_at = now()"
    )
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.dlq")
    await running.sweep()

    async def is_due() -> bool:
        (row,) = await world.sql("SELECT dead_letter_at, dead_lettered_at FROM tasks")
        return row["dead_letter_at"] is not None and row["dead_lettered_at"] is None

    await eventually(is_due, "its copy is published again", CHANGE_SECONDS)


async def test_a_repair_is_told_once_events_can_be_recorded_again(world: World, proxy: KubeProxy, start: Start) -> None:
    running = await start(DTQ_RESYNC_SECONDS="500ms")
    await world.create_ready(world.queue_set())
    refused = proxy.strike(r"POST .*/events", status=403)
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default")

    async def is_repaired() -> bool:
        return bool(running.metric("dq_operator_drift_repairs_total", kind="QueueSet"))

    await eventually(is_repaired, "the queue is back", CHANGE_SECONDS)
    await refused.hit.wait()
    proxy.clear()
    assert "tasks.default" in await world.until_event(world.queue_set(), "DriftRepaired")


async def test_a_binding_deleted_by_hand_comes_back(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set())
    before = await world.bindings()
    await world.broker_call("DELETE", "/api/bindings/{vhost}/e/tasks.direct/q/tasks.default/default")

    async def is_back() -> bool:
        return await world.bindings() == before

    await eventually(is_back, "the binding is back", CHANGE_SECONDS)


async def test_a_broker_rebuilt_empty_is_furnished_again(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    before = (set(await world.queues()), await world.bindings(), await world.exchanges())
    await world.rebuild_vhost()

    async def is_furnished() -> bool:
        return (set(await world.queues()), await world.bindings(), await world.exchanges()) == before

    await eventually(is_furnished, "everything is declared again", CHANGE_SECONDS)
    await world.until(world.queue_set(), "Ready", "True")


async def test_a_queue_with_other_arguments_is_left_alone_with_its_messages(world: World, start: Start) -> None:
    await world.broker_call("PUT", "/api/queues/{vhost}/tasks.default", {"durable": True, "arguments": {}})
    await world.publish("tasks.default", 3)
    await start()
    await world.create(world.queue_set())
    await world.until(world.queue_set(), "Ready", "False", "ArgumentMismatch")
    found = await world.broker_call("GET", "/api/queues/{vhost}/tasks.default")
    assert found["type"] == "classic"
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default")
    await world.until(world.queue_set(), "Ready", "True")
    assert (await world.queues())["tasks.default"]["type"] == "quorum"


async def test_a_right_that_is_granted_ends_a_refusal(world: World, start: Start) -> None:
    await world.allow(configure="^$")
    await start()
    await world.create(world.queue_set())
    await world.until(world.queue_set(), "TopologyDeclared", "False", "AccessRefused")
    await world.allow()
    await world.until(world.queue_set(), "Ready", "True")


async def test_a_forged_status_is_mended(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    forged = {
        "status": {
            "observedGeneration": 99,
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "Forged", "lastTransitionTime": "2020-01-01T00:00:00Z"},
                {"type": "Mine", "status": "True", "reason": "Forged", "lastTransitionTime": "2020-01-01T00:00:00Z"},
            ],
        }
    }
    await world.kube.call("PATCH", world.path_of(world.task_type()) + "/status", forged)
    found = await world.until(world.task_type(), "Ready", "True")
    assert found["status"]["observedGeneration"] == 1
    assert "Mine" not in await world.conditions(world.task_type())


async def test_a_pause_is_handed_to_the_data_plane_and_back(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set())
    for paused, reason in ((True, "Paused"), (False, "Serving")):
        await world.patch(world.queue_set(), {"spec": {"paused": paused}})
        await world.until(world.queue_set(), "Ready", "True", reason)
        assert [row["paused"] for row in await world.sql("SELECT paused FROM queue_set")] == [paused]


async def test_a_queue_taken_out_of_the_set_drains_and_is_kept(world: World, start: Start) -> None:
    await start()
    two = [{"name": "default"}, {"name": "second"}]
    await world.create_ready(world.queue_set(queues=two))
    await world.publish("tasks.second")
    await world.patch(world.queue_set(), {"spec": {"queues": two[:1]}})
    await world.until(world.queue_set(), "Ready", "True")
    assert "tasks.second" in await world.queues()
    assert "tasks.second" not in {queue for _, queue, key in await world.bindings() if key == "second"}


async def test_nothing_is_written_while_nothing_changes(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await running.sweep()
    before = [await world.get(obj) for obj in (world.queue_set(), world.task_type())]
    revision = await world.sql("SELECT revision FROM catalog_revision")
    for _ in range(3):
        await running.sweep()
        await running.operator.scaler.once()
        await running.idle()
    assert [await world.get(obj) for obj in (world.queue_set(), world.task_type())] == before
    assert await world.sql("SELECT revision FROM catalog_revision") == revision
    assert await world.events(world.queue_set()) == []


async def test_each_generation_costs_one_write(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await running.idle()
    for kind in ("QueueSet", "TaskType"):
        assert running.metric("dq_operator_status_writes_total", kind=kind) == 1
    await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
    await world.until(world.task_type(), "Ready", "True")
    await running.idle()
    assert running.metric("dq_operator_status_writes_total", kind="TaskType") == 2


async def test_what_is_wrong_is_told_once_even_by_a_new_operator(world: World, start: Start) -> None:
    for _ in range(2):
        running = await start()
        await world.create_or_keep(world.task_type())
        await world.until(world.task_type(), "Ready", "False", "QueueSetNotFound")
        for _ in range(3):
            await running.sweep()
        await running.end()
    assert [reason for _, reason, _ in await world.events(world.task_type())] == ["QueueSetNotFound"]


async def test_a_name_that_two_take_at_once_is_taken_by_one(world: World) -> None:
    await world.sql("INSERT INTO queue_set (name, namespace, retry_delays_seconds) VALUES ('default', 'tasks', '{5}')")
    await world.sql("INSERT INTO queue (queue_set, name, position, type) VALUES ('default', 'default', 0, 'Quorum')")
    manifest = TaskType.model_validate(world.task_type())
    async with Database(world.dsn, name="test") as database:
        for round_ in range(20):
            name = f"race.t{round_}"
            one = manifest.model_copy(update={"metadata": manifest.metadata.model_copy(update={"name": name})})
            owners = [Owner(uid=f"uid{n}", namespace=f"ns{n}", name=name, generation=1) for n in range(4)]
            plans = await _together(database, one, owners)
            assert sorted(plan.refusal.reason if plan.refusal else "won" for plan in plans) == [
                *[Reason.NAME_CONFLICT] * 3, "won",
            ]  # fmt: skip


async def _together(database: Database, manifest: TaskType, owners: list[Owner]) -> list[Plan]:
    return list(await asyncio.gather(*(reconcile_task_type(database, manifest, owner) for owner in owners)))

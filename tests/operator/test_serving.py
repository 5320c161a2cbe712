"""Served: a type that no live worker runs says so, with what is missing and since when."""

from dataclasses import replace

import pytest

from tests.operator.conftest import Start
from tests.operator.running import QUICK, Running
from tests.operator.world import World
from tests.support.kube_api import Object
from tests.support.waiting import CHANGE_SECONDS, eventually

AT_ONCE = replace(QUICK, unserved_seconds=0.0)
"""Nothing may be without a worker for a while."""
GAUGE = "dq_operator_task_types_unserved"


def condition(obj: Object, type_: str) -> Object:
    (found,) = [condition for condition in obj["status"]["conditions"] if condition["type"] == type_]
    assert isinstance(found, dict)
    return found


async def test_a_type_follows_its_workers(world: World, start: Start) -> None:
    running = await start(pace=AT_ONCE)
    wanted = [{"name": "default", "scaling": {"minReplicas": 1}}]
    await world.create_ready(world.queue_set(queues=wanted), world.task_type())
    found = await world.until(world.task_type(), "Served", "False", "QueueNotConsumed")
    assert condition(found, "Served")["message"] == (
        "no live worker consumes queue default of QueueSet default: start one with this queue in QUEUES"
    )
    assert condition(found, "Ready")["status"] == "True"
    assert "run" not in condition(found, "Ready")["message"].partition(";")[0]
    assert "no live worker consumes" in await world.until_event(world.task_type(), "QueueNotConsumed")
    await _counted(running, "QueueNotConsumed", 1.0)

    worker = await world.add_worker(types=["something.else"])
    found = await world.until(world.task_type(), "Served", "False", "NoHandler")
    assert "WORKER_HANDLERS" in condition(found, "Served")["message"]
    await world.until_event(world.task_type(), "NoHandler")
    await _counted(running, "NoHandler", 1.0)

    served = await world.add_worker()
    found = await world.until(world.task_type(), "Served", "True", "WorkersReady")
    assert condition(found, "Ready")["reason"] == "Serving"
    assert condition(found, "Ready")["message"] == "tasks of this type are accepted and run"
    await _counted(running, "NoHandler", 0.0)

    ended = await world.end_worker(served)
    found = await world.until(world.task_type(), "Served", "False", "NoHandler")
    assert f"since {ended:%Y-%m-%dT%H:%M:%SZ}" in condition(found, "Served")["message"]
    await world.end_worker(worker)
    await world.until(world.task_type(), "Served", "False", "QueueNotConsumed")


async def test_a_worker_of_another_prefix_or_queue_does_not_serve(world: World, start: Start) -> None:
    await world.add_worker(namespace="other")
    await world.add_worker(queues=["high"])
    await start(pace=AT_ONCE)
    wanted = [{"name": "default", "scaling": {"minReplicas": 1}}]
    await world.create_ready(world.queue_set(queues=wanted), world.task_type())
    await world.until(world.task_type(), "Served", "False", "QueueNotConsumed")
    await world.add_worker(namespace=None)
    await world.until(world.task_type(), "Served", "True", "WorkersReady")


async def test_a_new_type_gives_its_workers_time_and_writes_its_status_once(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await world.until(world.task_type(), "Served", "Unknown", "JustDeclared")
    writes = running.metric("dq_operator_status_writes_total", kind="TaskType")
    for _ in range(3):
        await running.operator.serving.once()
        await running.idle()
    assert running.metric("dq_operator_status_writes_total", kind="TaskType") == writes
    assert not any(kind == "Warning" for kind, _, _ in await world.events(world.task_type()))


async def test_a_rolling_update_of_the_workers_writes_nothing(world: World, start: Start) -> None:
    running = await start()
    worker = await world.add_worker()
    await world.create_ready(world.queue_set(), world.task_type())
    await world.until(world.task_type(), "Served", "True", "WorkersReady")
    writes = running.metric("dq_operator_status_writes_total", kind="TaskType")
    await world.end_worker(worker)
    await running.operator.serving.once()
    await world.add_worker()
    await running.operator.serving.once()
    await running.idle()
    assert running.metric("dq_operator_status_writes_total", kind="TaskType") == writes


@pytest.mark.parametrize("waiting", [0, 3], ids=["idle", "with work"])
async def test_a_pool_scaled_to_zero_is_missed_only_when_there_is_work(
    world: World, start: Start, waiting: int
) -> None:
    running = await start(pace=AT_ONCE)
    worker = await world.add_worker()
    hints = {"minReplicas": 0, "cooldownSeconds": 0}
    await world.create_ready(world.queue_set(queues=[{"name": "default", "scaling": hints}]), world.task_type())
    await world.until(world.task_type(), "Served", "True", "WorkersReady")
    await world.enqueue(waiting)
    await running.operator.scaler.once()
    await world.end_worker(worker)
    expected = ("False", "QueueNotConsumed") if waiting else ("Unknown", "ScaledToZero")
    await world.until(world.task_type(), "Served", *expected)
    if not waiting:
        # The row of the worker is pruned after a day: that must not make a mistake of it.
        await world.sql("DELETE FROM workers")
        for _ in range(3):
            await running.operator.serving.once()
            await running.idle()
        await world.until(world.task_type(), "Served", "Unknown", "ScaledToZero")


async def test_an_inactive_type_is_told_and_not_warned_of(world: World, start: Start) -> None:
    running = await start(pace=AT_ONCE)
    await world.create_ready(world.queue_set(), world.task_type(active=False))
    found = await world.until(world.task_type(), "Served", "False", "QueueNotConsumed")
    assert condition(found, "Ready")["message"].endswith("accepted tasks wait for a worker, see condition Served")
    await running.operator.serving.once()
    assert running.metric(GAUGE, reason="QueueNotConsumed") == 0.0
    assert not any(kind == "Warning" for kind, _, _ in await world.events(world.task_type()))


async def test_kubectl_shows_it_in_a_column(world: World, start: Start) -> None:
    await start(pace=AT_ONCE)
    await world.create_ready(world.queue_set(), world.task_type())
    await world.until(world.task_type(), "Served", "False")
    head, row = (await world.kubectl("get", "tt")).splitlines()
    assert row.split()[head.split().index("SERVED")] == "False"


async def _counted(running: Running, reason: str, count: float) -> None:
    """Wait until the gauge says so."""

    async def says() -> bool:
        return running.metric(GAUGE, reason=reason) == count

    await eventually(says, f"{count:g} types are {reason}", CHANGE_SECONDS)

"""The operator as a process: killed at each of its steps, ended by a signal, and not needed by the data plane."""

import asyncio
import signal

import pytest

from dtq.runtime import failpoints
from hack.cluster.control_plane import ControlPlane
from tests.operator.world import TYPE, World
from tests.support.system import Process, System, call
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually

STEPS = {name for name in failpoints.NAMES if name.startswith(("operator.", "reconcile."))}
GOING = {"operator.finalizer_removed", "operator.released", "reconcile.row_deleted", "reconcile.topology_deleted"}
RUN_SECONDS = 40.0
"""A task runs on a worker that has just started, in seconds."""
EXIT_SECONDS = 20


async def until_killed(process: Process) -> None:
    async def is_gone() -> bool:
        return process.popen.poll() is not None

    await eventually(is_gone, f"the step is reached; {process.log}", LONG_SECONDS)
    assert process.popen.returncode == -signal.SIGKILL, process.log.read_text()[-2000:]


@pytest.mark.parametrize("step", sorted(STEPS - GOING))
async def test_killed_while_things_appear(world: World, system: System, step: str) -> None:
    await world.create(world.queue_set(deletionPolicy="DeleteIfEmpty"), world.task_type(deletionPolicy="Delete"))
    await until_killed(system.operator(DTQ_FAILPOINTS=f"{step}=kill9@1"))
    system.operator()
    await world.until(world.queue_set(), "Ready", "True", seconds=60)
    await world.until(world.task_type(), "Ready", "True", seconds=60)
    assert set(await world.queues()) == {"tasks.default", "tasks.retry.default.5s", "tasks.dlq"}
    assert await world.claims() == {("TaskType", TYPE): world.namespace, ("QueueSet", "default"): world.namespace}
    assert await world.finalizers(world.task_type()) == ["dtq.dev/operator"]
    row = await world.row()
    assert row is not None
    assert row["active"]


@pytest.mark.parametrize("step", sorted(GOING))
async def test_killed_while_things_go(world: World, system: System, step: str) -> None:
    first = system.operator(DTQ_FAILPOINTS=f"{step}=kill9@1")
    await world.create(world.queue_set(deletionPolicy="DeleteIfEmpty"), world.task_type(deletionPolicy="Delete"))
    await world.until(world.queue_set(), "Ready", "True", seconds=60)
    await world.until(world.task_type(), "Ready", "True", seconds=60)
    await world.delete(world.task_type())
    await world.delete(world.queue_set())
    await until_killed(first)
    system.operator()
    await world.until_gone(world.task_type(), seconds=60)
    await world.until_gone(world.queue_set(), seconds=60)

    async def nothing_is_left() -> bool:
        return (await world.claims(), await world.queues(), await world.row()) == ({}, {}, None)

    await eventually(nothing_is_left, "nothing is left", CHANGE_SECONDS)


async def test_a_signal_ends_it_well_and_soon(world: World, system: System) -> None:
    process = system.operator()
    await world.create(world.queue_set())
    await world.until(world.queue_set(), "Ready", "True", seconds=60)
    process.popen.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(process.popen.wait, EXIT_SECONDS)
    log = process.log.read_text()
    assert code == 0, log
    assert "operator stopped" in log
    assert "Traceback" not in log


async def test_it_starts_before_anything_that_it_needs(world: World, system: System, plane: ControlPlane) -> None:
    await world.create(world.queue_set())
    await asyncio.to_thread(plane.stop_api_server)
    process = system.operator()
    await process.ready()
    await asyncio.to_thread(plane.start_api_server)
    await world.until(world.queue_set(), "Ready", "True", seconds=90)
    assert process.popen.poll() is None, process.log.read_text()[-2000:]


async def test_work_goes_on_without_operator_and_without_api_server(
    world: World, system: System, plane: ControlPlane
) -> None:
    operator = system.operator()
    api, worker = system.api(), system.worker()
    sample = world.task_type("sample.note.v1")
    await world.create(world.queue_set(), sample)
    await world.until(sample, "Ready", "True", seconds=60)
    await api.ready()
    await worker.ready()
    operator.kill()
    await asyncio.to_thread(plane.kill_api_server)
    try:
        status, _, task = await call(f"http://{api.address}/enqueue", {"type": "sample.note.v1", "payload": {}})
        assert status == 201, task

        async def is_done() -> bool:
            found = await call(f"http://{api.address}/tasks/{task['id']}")
            return bool(found[2]["status"] == "SUCCEEDED")

        await eventually(is_done, "the task has succeeded", RUN_SECONDS)
    finally:
        await asyncio.to_thread(plane.start_api_server)

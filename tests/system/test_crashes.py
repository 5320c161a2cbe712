"""A worker that dies: the crash is charged to the task that causes it, and its neighbours lose nothing."""

import resource
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import asyncpg
import pytest

from dtq.domain.decisions import CRASHES_MAX
from tests.support.control_group import can_limit_memory, memory_group
from tests.support.system import Process, System, call
from tests.support.waiting import READY_SECONDS, eventually
from tests.system.test_life import enqueue, has_started, has_status
from tests.system.test_outages import HURTFUL, _has_died

pytestmark = pytest.mark.timeout(600)  # a worker dies four times
ALL_ENDED_SECONDS: Final = 500.0
"""Every crash of the culprit is over, in seconds."""
INNOCENTS: Final = 6
LIMIT_MIB: Final = 256
LIMITS: Final = ["address space", "control group"] if can_limit_memory() else ["address space"]
"""How a worker's memory is limited: a control group where this machine lets a test make one, as a pod has one."""

StartWorker = Callable[[System], Awaitable[Process]]


@pytest.fixture(params=LIMITS)
def start_worker(request: pytest.FixtureRequest) -> Iterator[StartWorker]:
    """How a worker with little memory is started."""
    if request.param == "address space":
        yield _in_little_address_space
        return
    with memory_group(LIMIT_MIB << 20) as group:

        async def in_group(system: System) -> Process:
            with group.entered():
                worker = system.worker(WORKER_HANDLERS=HURTFUL)
            await worker.ready()
            return worker

        yield in_group


async def test_a_task_that_exhausts_memory_fails_alone_and_its_neighbours_lose_nothing(
    declared: System, dsn: str, start_worker: StartWorker, request: pytest.FixtureRequest
) -> None:
    api = declared.api()
    await api.ready()
    await api.ready("/healthz", seconds=READY_SECONDS)
    worker = await start_worker(declared)
    innocents = [await enqueue(api, first_seconds=120, seconds=1) for _ in range(INNOCENTS)]
    for id_ in innocents:
        await has_started(declared, id_)
    culprit = await enqueue(api, "sample.hungry.v1")

    async def all_are_over() -> bool:
        nonlocal worker
        if await _has_died(worker):
            dead, worker = worker, await start_worker(declared)
            await _expire_lease(dsn, dead)
        return all([(await _task(api, id_))["status"] in ("SUCCEEDED", "FAILED") for id_ in (culprit, *innocents)])

    await eventually(all_are_over, "all have ended", ALL_ENDED_SECONDS)
    for id_ in innocents:
        task = await has_status(api, id_, "SUCCEEDED")
        assert (task["attempts"], task["crashes"]) == (2, 0), task
        assert task["max_attempts"] - task["attempts"] == 4, "the attempt that the crash cut short is given back"
    task = await has_status(api, culprit, "FAILED")
    assert task["crashes"] == CRASHES_MAX
    assert task["last_error"].startswith(f"worker lost {CRASHES_MAX} times while it ran this task")
    assert "memory" in task["last_error"]
    assert "resources.limits.memory" in task["last_error"], "it says how to give it more"
    if "control group" in request.node.name:
        assert f"the kernel's OOM killer killed it at its memory limit of {LIMIT_MIB} MiB" in task["last_error"]
    runs = [run for run in declared.runs() if run["phase"] == "start" and run["task_id"] == culprit]
    assert len(runs) == CRASHES_MAX + 1, "once among others, and then alone"


async def test_a_child_process_that_exhausts_memory_costs_its_own_task_alone(
    declared: System, start_worker: StartWorker, request: pytest.FixtureRequest
) -> None:
    api = declared.api()
    await api.ready()
    worker = await start_worker(declared)
    neighbour = await enqueue(api, first_seconds=5)
    await has_started(declared, neighbour)
    task = await has_status(api, await enqueue(api, "sample.hungry-child.v1"), "FAILED", seconds=90)
    assert task["crashes"] == 0
    if "control group" in request.node.name:
        assert task["last_error"].startswith(
            "the handler's process ended with signal 9: the kernel killed it because it ran out of memory"
        )
        assert "resources.limits.memory" in task["last_error"]
    else:
        assert task["last_error"] == "the handler's process ended with signal 6"
    assert (await has_status(api, neighbour, "SUCCEEDED"))["attempts"] == 1
    assert not await _has_died(worker)


async def _in_little_address_space(system: System) -> Process:
    worker = system.worker(WORKER_HANDLERS=HURTFUL)
    await worker.ready()
    most = _address_space_bytes(worker.popen.pid) + (LIMIT_MIB << 20)
    resource.prlimit(worker.popen.pid, resource.RLIMIT_AS, (most, most))
    return worker


def _address_space_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


async def _expire_lease(dsn: str, dead: Process) -> None:
    """Let the test not wait for the end of a dead worker's lease."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(
            "UPDATE workers SET lease_expires_at = now() WHERE lease_expires_at > now() AND name LIKE $1",
            f"%:{dead.popen.pid}",
        )
    finally:
        await connection.close()


async def _task(api: Process, id_: str) -> Any:
    return (await call(f"http://{api.address}/tasks/{id_}"))[2]

"""The life of a task through real processes, and what must not end it."""

import asyncio
from typing import Any

import asyncpg
import pytest

from tests.support.addresses import BrokerVhost
from tests.support.system import Process, System, call
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually


async def enqueue(api: Process, type_: str = "sample.note.v1", **payload: Any) -> str:
    status, _, answer = await call(f"http://{api.address}/enqueue", {"type": type_, "payload": payload})
    assert status == 201, answer
    return str(answer["id"])


async def has_status(api: Process, id_: str, wanted: str, seconds: float = 30.0) -> Any:
    async def is_so() -> bool:
        return bool((await call(f"http://{api.address}/tasks/{id_}"))[2]["status"] == wanted)

    await eventually(is_so, f"task {id_} is {wanted}", seconds)
    return (await call(f"http://{api.address}/tasks/{id_}"))[2]


async def has_started(system: System, id_: str) -> None:
    async def is_so() -> bool:
        return any(run["task_id"] == id_ for run in system.runs())

    await eventually(is_so, f"task {id_} has started", CHANGE_SECONDS)


async def test_a_task_is_accepted_run_and_shown(declared: System) -> None:
    api, worker = declared.api(), declared.worker()
    await api.ready()
    await worker.ready()
    id_ = await enqueue(api)
    task = await has_status(api, id_, "SUCCEEDED")
    assert task["result"] == {"attempt": 1}
    _, _, answer = await call(f"http://{api.address}/tasks/{id_}/events")
    assert [event["event"] for event in answer["events"]] == ["ENQUEUED", "RUNNING", "SUCCEEDED"]


async def test_a_worker_that_waits_for_its_queues_is_alive_says_so_and_can_be_stopped(declared: System) -> None:
    worker = declared.worker(QUEUES="nowhere")

    async def says_why() -> bool:
        status, _, told = await call(f"http://{worker.address}/readyz")
        return (status, told) == (503, {"status": "degraded", "start": why})

    why = (
        "none of QUEUES (nowhere) is declared with prefix tasks: declare a QueueSet, or correct QUEUES or RMQ_NAMESPACE"
    )
    await eventually(says_why, "the worker says why it is not ready", LONG_SECONDS)
    assert (await call(f"http://{worker.address}/livez"))[0] == 200
    assert await asyncio.to_thread(worker.terminate) == 0


async def test_a_task_whose_worker_is_killed_runs_again_and_succeeds(declared: System) -> None:
    api, first = declared.api(), declared.worker()
    await api.ready()
    await first.ready()
    id_ = await enqueue(api, first_seconds=600)
    await has_started(declared, id_)
    first.kill()
    second = declared.worker()
    await second.ready()
    task = await has_status(api, id_, "SUCCEEDED", seconds=30)
    assert task["attempts"] == 2
    assert task["crashes"] == 0, "it may not have been its doing"


async def test_a_worker_that_is_told_to_stop_ends_what_it_runs_and_exits_with_0(declared: System) -> None:
    api, worker = declared.api(), declared.worker()
    await api.ready()
    await worker.ready()
    id_ = await enqueue(api, first_seconds=1)
    await has_started(declared, id_)
    assert await asyncio.to_thread(worker.terminate) == 0
    task = await has_status(api, id_, "SUCCEEDED", seconds=5)
    assert task["attempts"] == 1


async def test_two_workers_never_run_a_task_twice(declared: System) -> None:
    api, workers = declared.api(), [declared.worker(), declared.worker()]
    await api.ready()
    for worker in workers:
        await worker.ready()
    ids = await asyncio.gather(*(enqueue(api) for _ in range(300)))

    async def all_ended() -> bool:
        return bool(sum(run["phase"] == "end" for run in declared.runs()) >= len(ids))

    await eventually(all_ended, "every task has run", LONG_SECONDS)
    starts = [run["task_id"] for run in declared.runs() if run["phase"] == "start"]
    assert sorted(starts) == sorted(ids)
    assert len({run["pid"] for run in declared.runs()}) == 2


async def test_a_retry_of_an_hour_does_not_delay_one_of_a_second(declared: System) -> None:
    api, worker = declared.api(), declared.worker()
    await api.ready()
    await worker.ready()
    slow = await enqueue(api, "sample.fail.v1")
    await has_started(declared, slow)
    quick = await enqueue(api, fail_first=True)
    task = await has_status(api, quick, "SUCCEEDED", seconds=20)
    assert task["attempts"] == 2
    assert (await has_status(api, slow, "ENQUEUED"))["attempts"] == 1


@pytest.mark.parametrize("count", [1, 2], ids=["one worker", "two workers"])
async def test_a_queue_deleted_by_hand_comes_back_without_a_restart(
    declared: System, broker_vhost: BrokerVhost, count: int
) -> None:
    api, workers = declared.api(), [declared.worker() for _ in range(count)]
    await api.ready()
    for worker in workers:
        await worker.ready()
    for id_ in await asyncio.gather(*(enqueue(api) for _ in range(20))):
        await has_status(api, id_, "SUCCEEDED")
    path = f"/api/queues/{broker_vhost.vhost}/tasks.default"
    await asyncio.to_thread(broker_vhost.management.call, "DELETE", path)
    # The first of them finds no queue: the API declares it again at once.
    ids = await asyncio.gather(*(enqueue(api) for _ in range(20)))
    await asyncio.gather(*(has_status(api, id_, "SUCCEEDED", seconds=30) for id_ in ids))

    async def nobody_is_deaf() -> bool:
        ids.extend(await asyncio.gather(*(enqueue(api) for _ in range(10))))
        ran = {run["pid"] for run in declared.runs() if run["task_id"] in ids}
        return ran == {worker.popen.pid for worker in workers}

    await eventually(nobody_is_deaf, "every worker runs tasks again")
    starts = [run["task_id"] for run in declared.runs() if run["phase"] == "start"]
    assert len(starts) == len(set(starts)), "no task runs twice"


async def test_without_a_broker_nothing_is_accepted_and_nothing_is_left(declared: System, dsn: str) -> None:
    api = declared.api(RMQ_PORT="1")
    await api.ready()
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    status, headers, answer = await call(f"http://{api.address}/enqueue", {"type": "sample.note.v1", "payload": {}})
    assert status == 503, answer
    assert loop.time() - asked_at < 2
    assert int(headers["retry-after"]) > 0
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
        assert await connection.fetchval("SELECT count(*) FROM task_events") == 0
    finally:
        await connection.close()


async def test_in_accept_mode_a_task_waits_for_the_broker(declared: System) -> None:
    blind = declared.api(RMQ_PORT="1", ENQUEUE_WHEN_BROKER_DOWN="accept")
    await blind.ready()
    id_ = await enqueue(blind)
    seeing, worker = declared.api(), declared.worker()
    await seeing.ready()
    await worker.ready()
    await has_status(seeing, id_, "SUCCEEDED", seconds=60)

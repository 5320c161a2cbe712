"""Real processes whose surroundings fail, and handlers that take their worker with them."""

import asyncio
import functools
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import asyncpg
import pytest

from dtq.domain.decisions import CRASHES_MAX
from dtq.runtime.loops import wait
from hack.stack.postgres import ADMIN, OWNER, Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import BrokerVhost, PostgresService, vhost_of
from tests.support.databases import create_database
from tests.support.system import Process, System, call, opened
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, READY_SECONDS, eventually
from tests.system.conftest import declare
from tests.system.test_life import enqueue, has_started, has_status

pytestmark = pytest.mark.timeout(300)  # servers are killed and started again
HURTFUL = "tests.support.handlers,tests.system.handlers"


async def test_a_broker_that_is_killed_costs_no_task_and_holds_no_request_up(
    tmp_path: Path, dsn: str, own_rabbitmq: Callable[[], Awaitable[RabbitMQ]]
) -> None:
    broker = await own_rabbitmq()
    with opened(tmp_path, dsn, vhost_of(broker)) as system:
        declare(system)
        refusing, accepting = system.api(), system.api(ENQUEUE_WHEN_BROKER_DOWN="accept")
        worker = system.worker()
        for process in (refusing, accepting, worker):
            await process.ready()
        before = await enqueue(refusing)
        await has_status(refusing, before, "SUCCEEDED")

        await asyncio.to_thread(broker.kill)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        status, headers, answer = await call(f"http://{refusing.address}/enqueue", _task())
        assert (status, loop.time() - asked_at < 2) == (503, True), answer
        assert int(headers["retry-after"]) > 0
        assert await _count(dsn) == 1, "the refused task has left no row"
        accepted = [await enqueue(accepting) for _ in range(5)]

        await asyncio.to_thread(broker.start)
        for id_ in accepted:
            await has_status(accepting, id_, "SUCCEEDED", seconds=60)
        after = await _until_accepted(refusing, "after")
        assert (await has_status(refusing, after, "SUCCEEDED"))["attempts"] == 1
        await worker.ready()


async def test_an_immediate_restart_of_postgres_under_load_loses_nothing(
    tmp_path: Path, broker_vhost: BrokerVhost, own_postgres: Callable[[], Awaitable[Postgres]]
) -> None:
    server = await own_postgres()
    service = PostgresService(admin_dsn=server.dsn("postgres", user=ADMIN), owner=OWNER, password=server.password)
    await create_database(service, "system")
    with opened(tmp_path, service.dsn("system"), broker_vhost) as system:
        system.run("migrate")
        declare(system)
        api, worker = system.api(), system.worker()
        await api.ready()
        await worker.ready()
        ids: dict[str, str] = {}

        async def client(number: int) -> None:
            for n in range(20):
                key = f"{number}.{n}"
                ids[key] = await _until_accepted(api, key)

        async with asyncio.TaskGroup() as clients:
            for number in range(8):
                clients.create_task(client(number))
            await eventually(lambda: _at_least(ids, 40), "there is load", LONG_SECONDS)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
        assert len(set(ids.values())) == 160, "one task for each key"
        for id_ in ids.values():
            await has_status(api, id_, "SUCCEEDED", seconds=60)
        assert {run["task_id"] for run in system.runs() if run["phase"] == "end"} >= set(ids.values())


async def test_a_task_that_takes_its_worker_down_again_and_again_fails_for_good(declared: System, dsn: str) -> None:
    api = declared.api()
    await api.ready()
    await api.ready("/healthz", seconds=READY_SECONDS)
    id_ = await enqueue(api, "sample.poison.v1")
    for crash in range(CRASHES_MAX + 1):  # the first makes it a suspect
        worker = declared.worker(WORKER_HANDLERS=HURTFUL)
        await eventually(functools.partial(_has_died, worker), f"worker {crash} has died", LONG_SECONDS)
        await _expire_leases(dsn)

        async def is_taken_back(crash: int = crash) -> bool:
            task = (await call(f"http://{api.address}/tasks/{id_}"))[2]
            return bool(task["crashes"] == crash and task["status"] != "RUNNING")

        await eventually(is_taken_back, f"crash {crash} is counted")
    task = await has_status(api, id_, "FAILED")
    assert task["attempts"] == CRASHES_MAX + 1
    assert task["last_error"].startswith(f"worker lost {CRASHES_MAX} times while it ran this task, alone each time")
    assert sum(run["task_id"] == id_ for run in declared.runs()) == CRASHES_MAX + 1


async def test_a_second_signal_ends_a_worker_at_once(declared: System) -> None:
    api, worker = declared.api(), declared.worker(WORKER_DRAIN="60s")
    await api.ready()
    await worker.ready()
    await has_started(declared, await enqueue(api, first_seconds=600))
    worker.popen.send_signal(signal.SIGTERM)
    await eventually(lambda: _log_says(worker, "drain started"), "it drains", CHANGE_SECONDS)
    worker.popen.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(worker.popen.wait, 20) == -signal.SIGTERM


async def test_a_handler_that_ignores_its_cancellation_does_not_keep_its_worker_from_ending(declared: System) -> None:
    api, worker = declared.api(), declared.worker(WORKER_HANDLERS=HURTFUL, WORKER_DRAIN="1s")
    await api.ready()
    await worker.ready()
    await has_started(declared, await enqueue(api, "sample.stubborn.v1"))
    assert await asyncio.to_thread(worker.terminate) == 0
    assert await _log_says(worker, "running handlers abandoned")


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({"WORKER_HANDLERS": "no.such.module"}, "no.such.module: cannot be imported"),
        ({"WORKER_HANDLERS": "json"}, "no module has a function with @handler"),
        ({"QUEUES": ""}, "QUEUES"),
    ],
)
async def test_a_worker_that_cannot_work_says_why_and_ends(
    declared: System, environ: dict[str, str], told: str
) -> None:
    worker = declared.worker(**environ)
    assert await asyncio.to_thread(worker.popen.wait, 60) == 2
    assert told in worker.log.read_text()


def _task() -> dict[str, object]:
    return {"type": "sample.note.v1", "payload": {}}


async def _until_accepted(api: Process, key: str) -> str:
    """Enqueue as a client should: with a key, again and again until there is an answer."""
    while True:
        status, _, answer = await call(f"http://{api.address}/enqueue", _task() | {"idempotency_key": key})
        if status == 201:
            return str(answer["id"])
        assert status in (0, 503), answer
        await wait(asyncio.Event(), 0.2)


async def _count(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        return int(await connection.fetchval("SELECT count(*) FROM tasks"))
    finally:
        await connection.close()


async def _expire_leases(dsn: str) -> None:
    """Let no test wait for the end of a dead worker's lease."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE workers SET lease_expires_at = now() WHERE lease_expires_at > now()")
    finally:
        await connection.close()


async def _at_least(ids: dict[str, str], count: int) -> bool:
    return len(ids) >= count


async def _has_died(worker: Process) -> bool:
    return worker.popen.poll() is not None


async def _log_says(worker: Process, words: str) -> bool:
    return words in worker.log.read_text()

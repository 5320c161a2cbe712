"""What the API answers while Postgres does not: 503 in time, never a 500, and recovery without a restart."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx2
import pytest_asyncio

from dtq.domain.catalog import Catalog
from dtq_db.connections import ACQUIRE_SECONDS, POOL_MAX
from dtq_db.migrations import migrate
from hack.stack.postgres import Postgres
from tests.api.world import ANY, Running, declare, problem, running, serving
from tests.support.addresses import BrokerVhost
from tests.support.services import Services
from tests.support.waiting import eventually

ID = "00000000-0000-7000-8000-000000000000"
READ = ("/tasks", f"/tasks/{ID}", f"/tasks/{ID}/events", "/queues/default/scaling")
PROBE_SECONDS = 4.0


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def own_server(services: Services) -> AsyncIterator[Postgres]:
    """A Postgres that these tests break, each leaving it whole."""
    server = await asyncio.to_thread(services.new_postgres)
    await migrate(server.dsn())
    await declare(server.dsn())
    yield server
    await asyncio.to_thread(server.destroy)


@pytest_asyncio.fixture(loop_scope="session")
async def broken(own_server: Postgres, shared_services: tuple[str, BrokerVhost]) -> AsyncIterator[Running]:
    """An API on that server."""
    async with running(own_server.dsn(), shared_services[1]) as one:
        yield one


async def everything_is_unavailable(api: Running) -> None:
    for path in READ:
        answer = await api.client.get(path)
        problem(answer, 503, "Unavailable")
        assert int(answer.headers["retry-after"]) > 0
    for path, body in ((f"/tasks/{ID}/cancel", None), ("/dlq/redrive", {"ids": [ID]}), ("/dlq/redrive", {"all": True})):
        in_doubt_or_refused(await api.client.post(path, json=body))
    answers = await asyncio.gather(api.enqueue(ANY), api.enqueue("unknown.v1"), *(api.enqueue(ANY) for _ in range(20)))
    for answer in answers:
        in_doubt_or_refused(answer)
    problem(await api.enqueue(ANY), 503, "Unavailable")  # by now no connection is left whose answer could be lost


def in_doubt_or_refused(answer: httpx2.Response) -> None:
    """A statement may have been on its way when the server went."""
    code = "Unavailable" if "problems/Unavailable" in answer.text else "OutcomeUnknown"
    problem(answer, 503, code)
    assert int(answer.headers["retry-after"]) > 0


async def recovers(api: Running) -> None:
    async def well() -> bool:
        return (await api.client.get("/readyz")).status_code == 200

    await eventually(well, "the API is ready again")
    assert (await api.enqueue()).status_code == 201
    assert (await api.client.get("/tasks")).status_code == 200


async def test_a_stopped_database_makes_the_api_unready_and_not_dead(own_server: Postgres, broken: Running) -> None:
    await asyncio.to_thread(own_server.stop)
    try:
        await everything_is_unavailable(broken)
        for path in ("/readyz", "/healthz"):
            answer = await broken.client.get(path)
            assert answer.status_code == 503
            assert set(answer.json()) == {"status", "db"}
        assert (await broken.client.get("/livez")).status_code == 200
        assert (await broken.client.get("/metrics")).status_code == 200
    finally:
        await asyncio.to_thread(own_server.start)
    await recovers(broken)


async def test_a_frozen_database_is_noticed_by_the_probes_in_time(own_server: Postgres, broken: Running) -> None:
    assert (await broken.client.get("/tasks")).status_code == 200
    await asyncio.to_thread(own_server.pause)
    try:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        assert (await broken.client.get("/readyz")).status_code == 503
        assert loop.time() - asked_at < PROBE_SECONDS
        assert (await broken.client.get("/livez")).status_code == 200
        answers = await asyncio.gather(broken.enqueue(), broken.client.get("/tasks"))
        for answer in answers:
            in_doubt_or_refused(answer)
        assert loop.time() - asked_at < 20
    finally:
        await asyncio.to_thread(own_server.resume)
    await recovers(broken)


async def test_connections_that_are_cut_cost_at_most_one_answer(own_server: Postgres, broken: Running) -> None:
    assert (await broken.enqueue()).status_code == 201
    assert (await broken.client.get("/tasks")).status_code == 200
    cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'dtq' AND application_name ~ '^dtq-'"
    await asyncio.to_thread(own_server.sql, cut)
    answers = [await broken.enqueue(), await broken.client.get("/tasks")]
    assert {answer.status_code for answer in answers} <= {200, 201, 503}
    await recovers(broken)


async def test_a_database_that_became_read_only_is_unhealthy_and_is_left_when_it_is_over(
    own_server: Postgres, broken: Running
) -> None:
    assert (await broken.enqueue()).status_code == 201
    try:
        await asyncio.to_thread(own_server.sql, "ALTER SYSTEM SET default_transaction_read_only = on")
        await asyncio.to_thread(own_server.sql, "SELECT pg_reload_conf()")

        async def refuses() -> bool:
            return (await broken.enqueue()).status_code == 503

        await eventually(refuses, "the settings are read again")
        before = await broken.written()
        problem(await broken.enqueue(), 503, "Unavailable")
        problem(await broken.client.post("/dlq/redrive", json={"ids": [ID]}), 503, "Unavailable")
        problem(await broken.client.post(f"/tasks/{ID}/cancel"), 503, "Unavailable")
        assert (await broken.client.get("/tasks")).status_code == 200
        assert await broken.written() == before

        async def told() -> bool:
            return "read-only" in (await broken.client.get("/healthz")).text

        await eventually(told, "/healthz tells")
        assert (await broken.client.get("/readyz")).status_code == 200
    finally:
        await asyncio.to_thread(own_server.sql, "SET transaction_read_only = off; ALTER SYSTEM RESET ALL")
        await asyncio.to_thread(own_server.sql, "SELECT pg_reload_conf()")

    async def accepts() -> bool:
        return (await broken.enqueue()).status_code == 201

    await eventually(accepts, "the database takes tasks again")


async def test_an_exhausted_pool_is_told_in_time_and_enqueuing_goes_on(fresh_api: Running) -> None:
    database = fresh_api.api.tasks._database
    loop = asyncio.get_running_loop()
    async with AsyncExitStack() as held:
        for _ in range(POOL_MAX):
            await held.enter_async_context(database.acquired())
        asked_at = loop.time()
        answers = await asyncio.gather(*(fresh_api.client.get(path) for path in READ[:3]))
        for answer in answers:
            problem(answer, 503, "Unavailable")
        assert loop.time() - asked_at < ACQUIRE_SECONDS + 3.0
        assert (await fresh_api.enqueue()).status_code == 201
    assert (await fresh_api.client.get("/tasks")).status_code == 200


async def test_a_locked_table_is_waited_for_no_longer_than_the_lock_timeout(fresh_api: Running) -> None:
    loop = asyncio.get_running_loop()
    transaction = fresh_api.sql.transaction()
    await transaction.start()
    await fresh_api.sql.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
    asked_at = loop.time()
    answers = await asyncio.gather(*(fresh_api.enqueue() for _ in range(30)), fresh_api.client.get("/tasks"))
    assert loop.time() - asked_at < 10
    await transaction.rollback()
    for answer in answers:
        problem(answer, 503, "Unavailable")
    assert await fresh_api.written() == (0, 0)
    assert (await fresh_api.enqueue()).status_code == 201


async def test_an_api_that_starts_before_its_database_waits_for_it(
    own_server: Postgres, shared_services: tuple[str, BrokerVhost]
) -> None:
    await asyncio.to_thread(own_server.stop)
    try:
        async with (
            serving(own_server.dsn(), shared_services[1]) as (_, host, port),
            httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client,
        ):
            task = {"type": ANY, "payload": {}}
            assert [(await client.get(path)).status_code for path in ("/livez", "/readyz")] == [200, 503]
            for _ in range(3):
                problem(await client.post("/enqueue", json=task), 503, "Unavailable")
            await asyncio.to_thread(own_server.start)

            async def accepts() -> bool:
                return (await client.post("/enqueue", json=task)).status_code == 201

            async def ready() -> bool:
                return (await client.get("/readyz")).status_code == 200

            await eventually(accepts, "the API takes tasks")
            await eventually(ready, "the API is ready")
    finally:
        await asyncio.to_thread(own_server.start)


async def test_a_type_is_never_called_unknown_before_the_catalog_was_read(fresh_api: Running) -> None:
    fresh_api.api.catalog.current = Catalog()
    answers = await asyncio.gather(*(fresh_api.enqueue() for _ in range(20)))
    assert {answer.status_code for answer in answers} == {201}

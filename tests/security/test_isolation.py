"""What one caller's requests may take from others, and what a stranger may read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import httpx2
import pytest

from dtq_api.group_commit import LARGE_PAYLOAD_BYTES
from dtq_db.tasks import LISTS_MAX
from tests.api.world import Running, problem, serving
from tests.support.addresses import BrokerVhost
from tests.support.waiting import eventually

LISTS: Final = 24


@asynccontextmanager
async def held_lists(api: Running) -> AsyncIterator[None]:
    """Occupy every list that may be read at the same time, as slow statements would."""
    async with AsyncExitStack() as held:
        for _ in range(LISTS_MAX):
            await held.enter_async_context(api.api.tasks._list())
            await held.enter_async_context(api.api.tasks._database.acquired())
        yield


async def test_lists_that_wait_leave_the_probes_and_other_requests_alone(fresh_api: Running) -> None:
    id_ = await fresh_api.enqueued()
    async with held_lists(fresh_api):
        lists = [asyncio.create_task(fresh_api.client_at(f"127.0.1.{number}").get("/tasks")) for number in range(LISTS)]
        answers = await asyncio.gather(
            *(fresh_api.client.get(path) for path in ("/readyz", f"/tasks/{id_}", "/healthz"))
        )
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert (await fresh_api.enqueue()).status_code == 201
        for answer in await asyncio.gather(*lists):
            assert problem(answer, 503, "Unavailable")["detail"] == f"{LISTS_MAX} lists are being read already"
            assert answer.headers["retry-after"] == "1"
    assert (await fresh_api.client.get("/tasks")).status_code == 200


async def test_small_tasks_do_not_wait_for_the_batch_of_large_ones(
    fresh_api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    large_tasks = fresh_api.api.large_group_commit
    under_way = list(large_tasks._free)
    monkeypatch.setattr(large_tasks, "_free", [])  # as while a batch is stored
    large = asyncio.create_task(fresh_api.enqueue(payload="a" * LARGE_PAYLOAD_BYTES))

    async def waits() -> bool:
        return len(large_tasks._waiting) == 1

    await eventually(waits, "the large task waits")
    assert (await fresh_api.enqueue(payload="a" * 1_000)).status_code == 201
    assert not large.done()
    large_tasks._free.extend(under_way)
    large_tasks._start()
    assert (await large).status_code == 201


async def test_a_stranger_learns_which_part_is_down_and_nothing_else(authenticating: Running) -> None:
    authenticating.api.maintenance.publisher.broker.invalidate("amqp://admin:secret@10.0.0.1 is gone")
    answer = await authenticating.client.get("/healthz")
    assert answer.json() == {"status": "degraded", "rmq": "down"}


async def test_no_answer_may_be_cached_or_sniffed(declared_dsn: str, broker_vhost: BrokerVhost) -> None:
    async with serving(declared_dsn, broker_vhost) as (_, host, port), httpx2.AsyncClient() as client:
        for path in ("/", "/livez", "/tasks", "/nowhere", "/metrics"):
            answer = await client.get(f"http://{host}:{port}{path}")
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        *(("localhost:8080", 200), ("127.0.0.1:8080", 200), ("[::1]:8080", 200), ("[::1]", 200), ("api", 200)),
        *(("dtq.localhost", 200), ("evil.example", 421), ("evil.example:8080", 421), ("127.0.0.1.evil.example", 421)),
        *(("evil.example.", 421), ("localhost.evil.example", 421)),
    ],
)
async def test_a_foreign_host_name_is_refused_without_authentication(
    fresh_api: Running, host: str, status: int
) -> None:
    for path in ("/", "/healthz", "/tasks"):
        answer = await fresh_api.client.get(path, headers={"Host": host})
        assert answer.status_code == status
        if status != 200:
            problem(answer, status, "HostNotAllowed")


async def test_a_foreign_host_name_is_served_with_authentication(authenticating: Running) -> None:
    assert (await authenticating.client.get("/livez", headers={"Host": "dtq.example.com"})).status_code == 200

"""What the API answers while RabbitMQ does not: 503 and nothing left behind, or 201 and the relay sees to it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from urllib.parse import quote
from uuid import UUID

import httpx2
import pytest
import pytest_asyncio

from hack.stack.rabbitmq import RabbitMQ
from tests.api.world import ANY, NAMESPACE, Running, declare, problem, running
from tests.support.addresses import BrokerVhost, vhost_of
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.services import Services
from tests.support.waiting import LONG_SECONDS, eventually

pytestmark = pytest.mark.timeout(300)  # brokers are stopped and started again
REFUSAL_SECONDS = 2.0


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def own_broker(services: Services) -> AsyncIterator[RabbitMQ]:
    """A broker that these tests break, each leaving it whole."""
    server = await asyncio.to_thread(services.new_rabbitmq)
    yield server
    await asyncio.to_thread(server.destroy)


@pytest_asyncio.fixture(loop_scope="session")
async def apis(own_broker: RabbitMQ, dsn: str) -> AsyncIterator[tuple[Running, Running]]:
    """An API that refuses and one that accepts while the broker is down."""
    broker = vhost_of(own_broker)
    await declare(dsn)
    async with AsyncExitStack() as stack:
        yield (
            await stack.enter_async_context(running(dsn, broker, PUBLISH_TIMEOUT="1s")),
            await stack.enter_async_context(
                running(dsn, broker, PUBLISH_TIMEOUT="1s", ENQUEUE_WHEN_BROKER_DOWN="accept")
            ),
        )


async def refuses(api: Running, *, seconds: float = REFUSAL_SECONDS) -> httpx2.Response:
    """Enqueue, and check that it is refused in time and that nothing is left."""
    before = await api.written()
    loop = asyncio.get_running_loop()
    asked_at = loop.time()
    answer = await api.enqueue()
    assert loop.time() - asked_at < seconds
    problem(answer, 503, "Unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert await api.written() == before
    return answer


async def becomes(api: Running, *, up: bool) -> None:
    async def so() -> bool:
        return api.api.maintenance.publisher.broker.is_up is up

    await eventually(so, f"the link is {'up' if up else 'down'}", LONG_SECONDS)


async def test_while_the_broker_is_stopped_one_refuses_and_one_keeps(
    own_broker: RabbitMQ, apis: tuple[Running, Running]
) -> None:
    refusing, accepting = apis
    await asyncio.to_thread(own_broker.stop)
    try:
        await becomes(refusing, up=False)
        await refuses(refusing)
        answers = await asyncio.gather(*(refusing.enqueue() for _ in range(50)))
        assert {answer.status_code for answer in answers} == {503}
        assert await refusing.written() == (0, 0)
        kept = await accepting.enqueued()
        assert await accepting.events(kept) == ["ENQUEUED"]
        assert (await refusing.client.get(f"/tasks/{kept}")).status_code == 200
        assert (await refusing.client.get("/queues/default/scaling")).json()["backlog"] == 1, "Postgres knows it"
        assert [(await refusing.client.get(path)).status_code for path in ("/livez", "/readyz", "/healthz")] == [
            *(200, 200, 503)
        ]
    finally:
        await asyncio.to_thread(own_broker.start)
    await becomes(refusing, up=True)
    await becomes(accepting, up=True)
    await refusing.becomes_ready(0)

    async def accepts() -> bool:
        return (await refusing.enqueue()).status_code == 201

    await eventually(accepts, "the broker takes tasks again")
    before = 0

    async def are_counted() -> bool:
        nonlocal before
        before = await refusing.ready()
        return before > 0

    await eventually(are_counted, "what was taken waits in the queue")
    await _due(accepting, kept)
    await accepting.api.maintenance.relay.once()
    await accepting.becomes_ready(before + 1)


async def test_a_broker_that_is_frozen_is_waited_for_no_longer_than_the_publish_timeout(
    own_broker: RabbitMQ, apis: tuple[Running, Running]
) -> None:
    refusing, accepting = apis
    await asyncio.to_thread(own_broker.pause)
    try:
        await refuses(refusing, seconds=1.0 + REFUSAL_SECONDS)
        kept = await accepting.enqueued()
    finally:
        await asyncio.to_thread(own_broker.resume)
    assert await accepting.events(kept) == ["ENQUEUED"]
    assert await accepting.metric("dq_publish_total", result="timeout") == 1


async def test_a_broker_short_of_memory_is_told_apart_and_recovers(
    own_broker: RabbitMQ, apis: tuple[Running, Running]
) -> None:
    refusing, accepting = apis
    await rabbitmqctl(own_broker, "set_vm_memory_high_watermark", "0")
    try:
        # The broker reports its alarm to a connection only after a publish.
        await refuses(refusing, seconds=1.0 + REFUSAL_SECONDS)
        assert "memory" in problem(await refuses(refusing), 503, "Unavailable")["detail"]
        assert await accepting.events(await accepting.enqueued()) == ["ENQUEUED"]
        assert "memory" in (await refusing.client.get("/healthz")).json()["rmq"]
    finally:
        await rabbitmqctl(own_broker, "set_vm_memory_high_watermark", "absolute", "1GB")

    async def accepts() -> bool:
        return (await refusing.enqueue()).status_code == 201

    await eventually(accepts, "the alarm is over")


async def test_a_full_queue_refuses_and_leaves_nothing(dsn: str, broker_vhost: BrokerVhost) -> None:
    queue = {"name": "default", "type": "Classic", "maxLength": 2}
    await declare(dsn, queues=[queue])
    async with (
        running(dsn, broker_vhost) as refusing,
        running(dsn, broker_vhost, ENQUEUE_WHEN_BROKER_DOWN="accept") as accepting,
    ):
        for _ in range(2):
            await refusing.enqueued()
        assert "full" in problem(await refuses(refusing), 503, "Unavailable")["detail"]
        answers = await asyncio.gather(*(refusing.enqueue() for _ in range(10)))
        assert {answer.status_code for answer in answers} == {503}
        assert await refusing.written() == (2, 2)
        assert await refusing.metric("dq_publish_total", result="refused") == 11
        assert (await refusing.client.get("/tasks")).json()["next_cursor"] is None
        kept = await accepting.enqueued()
        assert (await accepting.row(kept))["needs_publish"] is True


async def test_a_key_whose_task_was_taken_back_is_free_again(dsn: str, broker_vhost: BrokerVhost) -> None:
    queue = {"name": "default", "type": "Classic", "maxLength": 1}
    await declare(dsn, queues=[queue])
    async with running(dsn, broker_vhost) as api:
        await api.enqueued()
        problem(await api.enqueue(ANY, {"a": 1}, idempotency_key="k"), 503, "Unavailable")
        broker_vhost.management.call("DELETE", f"/api/queues/{broker_vhost.vhost}/{NAMESPACE}.default/contents")
        answer = await api.enqueue(ANY, {"a": 2}, idempotency_key="k")
        assert (answer.status_code, "idempotency-replayed" in answer.headers) == (201, False)


async def test_a_queue_or_exchange_deleted_by_hand_is_declared_again_by_the_next_task(fresh_api: Running) -> None:
    vhost = fresh_api.broker.vhost
    for path in (f"/api/queues/{vhost}/{NAMESPACE}.high", f"/api/exchanges/{vhost}/{NAMESPACE}.direct"):
        fresh_api.broker.management.call("DELETE", path)
        assert (await fresh_api.enqueue(queue="high")).status_code == 201
    assert (await fresh_api.written())[0] == 2

    async def delivered() -> bool:
        # What waited in the deleted queue is found by the topology watch and published again.
        await fresh_api.api.maintenance.relay.once()
        return await fresh_api.ready("high") >= 1

    await eventually(delivered, "every task has its message")


async def test_a_broker_that_forbids_to_declare_is_unavailable(
    own_broker: RabbitMQ, apis: tuple[Running, Running]
) -> None:
    refusing, _ = apis
    # A link that a missed confirm costs cannot come back while it may not declare.
    refusing.api.maintenance.publisher._timeout_seconds = 5.0
    management = own_broker.management
    permissions = f"/api/permissions/{quote('/', safe='')}/{management.user}"
    management.call("DELETE", f"/api/queues/{quote('/', safe='')}/{NAMESPACE}.low")
    management.call("PUT", permissions, {"configure": "^$", "write": ".*", "read": ".*"})
    try:
        before = await refusing.written()
        problem(await refusing.enqueue(queue="low"), 503, "Unavailable")
        assert await refusing.written() == before
        assert (await refusing.enqueue(queue="high")).status_code == 201
    finally:
        management.call("PUT", permissions, {"configure": ".*", "write": ".*", "read": ".*"})


async def _due(api: Running, id_: UUID) -> None:
    """Make the relay see to a task at once, as if its grace were over."""
    await api.sql.execute("UPDATE tasks SET publish_at = now() WHERE id = $1 AND needs_publish", id_)

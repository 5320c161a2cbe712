"""What the API and the worker do when an answer is lost, so that the outcome is unknown."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from dtq.broker.publish_window import Message
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from dtq.domain.queue_sets import QueueSets
from dtq.runtime.loops import wait
from dtq.runtime.metrics import ApiMetrics, BrokerMetrics
from dtq_api.group_commit import BATCHES_MAX, GroupCommit
from dtq_db.connections import Database
from dtq_db.tasks import NewTask
from tests.faults.proxy import FAIR, Proxy, Weather
from tests.support.addresses import BrokerVhost

TIMEOUT_SECONDS = 5.0
LINK_SECONDS = 10.0


@pytest_asyncio.fixture(loop_scope="session")
async def to_postgres(dsn: str) -> AsyncIterator[Proxy]:
    parts = urlsplit(dsn)
    assert parts.hostname is not None
    assert parts.port is not None
    async with Proxy(parts.hostname, parts.port) as proxy:
        yield proxy


@pytest_asyncio.fixture(loop_scope="session")
async def sql(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO task_type (type, default_queue) VALUES ('sample.v1', 'default')")
    yield connection
    await connection.close()


class Refusing:
    """A publisher that refuses, after calling a function of the test."""

    def __init__(self, before: Weather, proxy: Proxy) -> None:
        self.before = before
        self._proxy = proxy

    def check(self) -> None:
        """Let everything try."""

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        self._proxy.become(self.before)
        return ["refused"] * len(messages)


def group_commit(database: Database, publisher: Refusing) -> GroupCommit:
    return GroupCommit(
        database,
        publisher,  # type: ignore[arg-type]
        queue_sets=QueueSets(),
        accept_when_down=False,
        metrics=ApiMetrics(CollectorRegistry()),
        confirmed=_nothing,
    )


def _nothing(_: dict[UUID, datetime]) -> None:
    """Nothing was confirmed."""


def a_task() -> NewTask:
    return NewTask(
        id=uuid4(),
        type="sample.v1",
        queue_set="default",
        queue="default",
        payload="{}",
        max_attempts=1,
        idempotency_key=None,
        run_at=None,
    )


async def warm(some: GroupCommit) -> None:
    """Let every connection connect and prepare its statements."""
    for _ in range(2 * BATCHES_MAX):
        with pytest.raises(Unavailable):
            await some.store(a_task())
        await some.idle()


async def test_a_task_whose_undoing_got_no_answer_is_in_doubt_and_never_promised(
    dsn: str, to_postgres: Proxy, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    through = dsn.replace(f":{urlsplit(dsn).port}/", f":{to_postgres.port}/")
    async with Database(through, name="test") as database:
        refusing = Refusing(FAIR, to_postgres)
        some = group_commit(database, refusing)
        await warm(some)
        refusing.before = Weather(answers_lost=True)
        with pytest.raises(Unavailable) as told:
            await some.store(a_task())
        assert told.value.in_doubt
        # The task was deleted: a 201 would have been a broken promise.
        async with asyncio.timeout(LINK_SECONDS):
            while await sql.fetchval("SELECT count(*) FROM tasks"):
                await wait(asyncio.Event(), 0.05)


async def test_a_task_that_the_broker_refused_and_that_was_taken_back_is_in_no_doubt(
    dsn: str, to_postgres: Proxy, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    through = dsn.replace(f":{urlsplit(dsn).port}/", f":{to_postgres.port}/")
    async with Database(through, name="test") as database:
        with pytest.raises(Unavailable) as told:
            await group_commit(database, Refusing(FAIR, to_postgres)).store(a_task())
        assert not told.value.in_doubt
        assert await sql.fetchval("SELECT count(*) FROM tasks") == 0


async def test_a_task_whose_storing_got_no_answer_is_in_doubt(
    dsn: str, to_postgres: Proxy, sql: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    through = dsn.replace(f":{urlsplit(dsn).port}/", f":{to_postgres.port}/")
    async with Database(through, name="test") as database:
        some = group_commit(database, Refusing(FAIR, to_postgres))
        await warm(some)
        to_postgres.become(Weather(answers_lost=True))
        with pytest.raises(Unavailable) as told:
            await some.store(a_task())
        assert told.value.in_doubt
    assert await sql.fetchval("SELECT count(*) FROM tasks") == 1


async def test_a_database_that_cannot_be_reached_leaves_nothing_in_doubt(to_postgres: Proxy) -> None:
    async with Database("postgresql://dtq@127.0.0.1:1/dtq", name="test") as database:
        with pytest.raises(Unavailable) as told:
            await group_commit(database, Refusing(FAIR, to_postgres)).store(a_task())
    assert not told.value.in_doubt


async def test_a_publisher_whose_connection_is_dead_gets_a_new_one_long_before_the_heartbeat(
    broker_vhost: BrokerVhost,
) -> None:
    async with Proxy(broker_vhost.host, broker_vhost.port) as proxy:
        through = broker_vhost.url.replace(f":{broker_vhost.port}/", f":{proxy.port}/")

        async def declare(connection: object) -> None:
            channel = await connection.channel()  # type: ignore[attr-defined]
            await channel.queue_declare("work", durable=True)
            await channel.close()

        publisher = Publisher(
            through,
            declare=declare,
            refusal=_none,
            metrics=BrokerMetrics(CollectorRegistry()),
            timeout_seconds=TIMEOUT_SECONDS,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(publisher.broker.run(stop))
        message = Message(exchange="", routing_key="work", body=b"{}")
        try:
            assert await wait(publisher.broker.up, LINK_SECONDS)
            assert await publisher.publish([message]) == [None]
            assert proxy.half_close()
            (refused,) = await publisher.publish([message])
            assert refused is not None
            with pytest.raises(Unavailable):
                publisher.check()
            assert await wait(publisher.broker.up, LINK_SECONDS)
            assert await publisher.publish([message]) == [None]
        finally:
            stop.set()
            await running


async def test_a_publish_that_is_under_way_when_its_connection_is_given_up_is_answered(
    broker_vhost: BrokerVhost,
) -> None:
    async with Proxy(broker_vhost.host, broker_vhost.port) as proxy:
        through = broker_vhost.url.replace(f":{broker_vhost.port}/", f":{proxy.port}/")
        publisher = Publisher(
            through,
            declare=_nothing_to_declare,
            refusal=_none,
            metrics=BrokerMetrics(CollectorRegistry()),
            timeout_seconds=4.0,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(publisher.broker.run(stop))
        message = Message(exchange="amq.direct", routing_key="nobody", body=b"{}")
        try:
            assert await wait(publisher.broker.up, LINK_SECONDS)
            await publisher.publish([message])
            assert proxy.half_close()
            first = asyncio.create_task(publisher.publish([message]))
            await wait(asyncio.Event(), 3.0)
            # Its time is not up yet when the first one has given the connection up and its goodbye has failed too.
            (second,) = await publisher.publish([message])
            assert second is not None
            (refused,) = await first
            assert refused is not None
        finally:
            stop.set()
            await running


async def _nothing_to_declare(_: object) -> None:
    """Everything is there."""


def _none(_: str) -> str | None:
    return None

"""A queue set that RabbitMQ refuses stops only itself, says so, and comes back once it is allowed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import structlog
from aiormq.channel import Channel

from dtq.broker.declare import declare
from dtq.broker.publish_window import Message
from dtq.domain.topology import topology_of
from tests.broker.world import World, bodies, running, spec_of, take, up
from tests.support.waiting import eventually

OURS = r"^tasks\..*"
REPORTS = spec_of(namespace="reports")


def report(world: World, body: str = "report") -> Message:
    """A message for the set that is refused."""
    return world.message(body, exchange="reports.direct")


async def test_a_refused_set_leaves_links_publishing_and_consuming_of_the_others_alone(world: World) -> None:
    world.queue_sets["reports"] = REPORTS
    await world.permit(configure=OURS)
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        results = await publisher.publish([report(world), world.message("a"), report(world), world.message("b")])
        assert [result is None for result in results] == [False, True, False, True]
        assert "queue set reports is not declared: RabbitMQ refuses to declare" in str(results[0])
        assert bodies(await take(consumer, 2)) == ["a", "b"]
        assert consumer.is_consuming
    assert list(world.declarer.refused) == ["reports"]
    assert "grant configure" in world.declarer.refused["reports"]
    # A missing sample would be no alert: `count` does not tell it from 0.
    assert world.registry.get_sample_value("dq_queue_set_declared", {"queue_set": "reports"}) == 0
    assert world.count("dq_queue_set_declared", queue_set="default") == 1
    assert world.count("dq_broker_reconnects_total", purpose="publish") == 0
    assert world.count("dq_broker_reconnects_total", purpose="consume") == 0


async def test_a_refused_set_is_tried_again_with_back_off_until_it_is_allowed(world: World) -> None:
    world.queue_sets["reports"] = REPORTS
    await world.permit(configure=OURS)
    publisher = world.publisher()
    async with running(publisher.broker):
        first = world.declarer.refused
        for _ in range(100):
            await world.declarer.retry()
        assert world.declarer._failures["reports"].retries.failures < 20, "a refusal is not asked about again and again"
        assert list(first) == ["reports"]
        await world.permit()

        async def is_declared() -> bool:
            await world.declarer.retry()
            return not world.declarer.refused

        await eventually(is_declared, "the set is declared")
        assert await publisher.publish([report(world)]) == [None]
    assert {queue.name for queue in topology_of(REPORTS).queues} <= set(await world.queues())
    assert ("reports", "high") in world.lost, "what was accepted meanwhile is published again"
    assert world.count("dq_queue_set_declared", queue_set="reports") == 1


async def test_a_refused_set_that_is_no_longer_declared_is_forgotten(world: World) -> None:
    world.queue_sets["reports"] = REPORTS
    await world.permit(configure=OURS)
    publisher = world.publisher()
    async with running(publisher.broker):
        assert list(world.declarer.refused) == ["reports"]
        del world.queue_sets["reports"]
        await world.declarer.retry()
        assert world.declarer.refused == {}
        assert world.registry.get_sample_value("dq_queue_set_declared", {"queue_set": "reports"}) is None


async def test_a_set_whose_declaration_ends_the_connection_leaves_the_links_to_the_others(world: World) -> None:
    world.queue_sets["reports"] = REPORTS
    async with cutting(world.url, b"reports.direct") as url:
        world.url = url
        publisher, consumer = world.publisher(), world.consumer()
        async with running(publisher.broker, consumer.broker):
            assert await publisher.publish([world.message("a")]) == [None]
            assert bodies(await take(consumer, 1)) == ["a"]
            before = world.count("dq_broker_reconnects_total", purpose="publish")
            await world.declarer.retry()
            assert list(world.declarer.refused) == ["reports"]
            assert world.count("dq_broker_reconnects_total", purpose="publish") == before <= 2


async def test_an_exchange_that_is_gone_and_may_not_be_declared_is_published_to_no_more(world: World) -> None:
    world.queue_sets["reports"] = REPORTS
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        await world.delete_exchange("reports.direct")
        await world.permit(configure=OURS)
        window = [report(world), world.message("a"), report(world), world.message("b")]
        await publisher.publish(window)  # ends the channel, as RabbitMQ does it

        async def is_isolated() -> bool:
            await up(publisher.broker)
            return [result is None for result in await publisher.publish(window)] == [False, True, False, True]

        await eventually(is_isolated, "only the set without an exchange is refused")
        before = world.count("dq_broker_reconnects_total", purpose="publish")
        for _ in range(3):
            assert await is_isolated()
        assert world.count("dq_broker_reconnects_total", purpose="publish") == before
        assert {"a", "b"} == set(bodies(await take(consumer, 8, seconds=2)))


async def test_a_queue_that_may_not_be_read_keeps_no_other_waiting(world: World) -> None:
    async with running(world.publisher().broker):
        pass  # declares
    await world.permit(read=r"^tasks\.(default|direct|dlx)$")
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message("a"), world.message("b", queue="high")])
        assert bodies(await take(consumer, 1)) == ["a"]
        assert not consumer.is_consuming
        assert list(consumer.missing) == ["tasks.high"]
        assert "ACCESS_REFUSED" in consumer.missing["tasks.high"]
        await consumer.tend()
        await consumer.resubscribe()
        assert consumer.broker.is_up
        assert world.count("dq_broker_reconnects_total", purpose="consume") == 0
        await world.permit()
        consumer.broker.invalidate("RabbitMQ caches rights by connection")

        async def is_whole() -> bool:
            await consumer.tend()
            return consumer.is_consuming

        await eventually(is_whole, "the queue is consumed once it may be read")
        assert bodies(await take(consumer, 1)) == ["b"]


async def test_consumers_follow_queues_that_come_go_and_come_again(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default")
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message("high", queue="high"), world.message("low")])
        assert bodies(await take(consumer, 2, seconds=1)) == ["low"]
        for _ in range(2):
            consumer.follow(world.subscriptions("high", "default"))
            assert list(consumer.missing) == ["tasks.high"]
            await consumer.tend()
            assert consumer.is_consuming
            assert bodies(await take(consumer, 1)) == ["high"]
            consumer.follow(world.subscriptions("default"))
            await consumer.tend()
            await world.becomes_ready("tasks.high", 1)  # it was not acknowledged, and is given back
            assert bodies(await take(consumer, 1, seconds=0.5)) == []
    assert world.count("dq_broker_reconnects_total", purpose="consume") == 0


async def test_a_queue_let_go_of_and_followed_again_at_once_keeps_what_it_was_sent(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("high", "default")
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message(f"{n}", queue="high") for n in range(3)])
        taken = await take(consumer, 1)
        consumer.follow(world.subscriptions("default"))
        consumer.follow(world.subscriptions("high", "default"))
        await consumer.tend()
        taken += await take(consumer, 2)
        assert bodies(taken) == ["0", "1", "2"]
        await consumer.ack(taken)
        await publisher.publish([world.message("3", queue="high")])
        assert bodies(await take(consumer, 1)) == ["3"]


@asynccontextmanager
async def cutting(url: str, word: bytes) -> AsyncIterator[str]:
    """Forward connections to a broker, and cut each that says `word`: a hard error of the broker looks like that."""
    parts = urlsplit(url)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection(parts.hostname, parts.port)

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, watched: bool) -> None:
            try:
                while data := await source.read(65_536):
                    if watched and word in data:
                        break
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                writer.close()
                downstream.close()

        await asyncio.gather(
            pump(reader, downstream, watched=True), pump(upstream, writer, watched=False), return_exceptions=True
        )

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        port = server.sockets[0].getsockname()[1]
        yield url.replace(f":{parts.port}/", f":{port}/")
    finally:
        server.close()


async def test_a_user_who_may_not_declare_uses_what_the_operator_declared(world: World) -> None:
    async with running(world.publisher().broker):
        pass  # declares, as the operator does
    await world.permit(configure="^$")
    publisher, consumer = world.publisher(), world.consumer()
    with structlog.testing.capture_logs() as logs:
        async with running(publisher.broker, consumer.broker):
            assert await publisher.publish([world.message("a")]) == [None]
            assert bodies(await take(consumer, 1)) == ["a"]
            await publisher.declare()
            await world.permit()
            await world.delete_queue("tasks.high")
            await world.permit(configure="^$")
            publisher.broker.invalidate("RabbitMQ caches rights by connection")
            await up(publisher.broker)
            assert "let the operator or `dtq apply` declare it" in world.declarer.refused["default"]
            await world.permit()
            async with world.raw() as connection:
                await declare(connection, world.topology)
            await world.permit(configure="^$")

            async def is_whole() -> bool:
                await world.declarer.retry()
                return not world.declarer.refused

            await eventually(is_whole, "the set is used again once it is whole")
    told = [log["queue_set"] for log in logs if log["event"] == "queue set left alone"]
    assert told == ["default"], "it is logged once, not with each declaration"


async def test_a_user_who_may_not_declare_is_refused_once_per_declaration(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(world.publisher().broker):
        pass  # declares
    await world.permit(configure="^$")
    asked: list[str] = []

    async def noted(self: Channel, queue: str = "", *, passive: bool = False, **rest: Any) -> Any:
        if not passive:
            asked.append(queue)
        return await queue_declare(self, queue, passive=passive, **rest)

    queue_declare = Channel.queue_declare
    monkeypatch.setattr(Channel, "queue_declare", noted)
    async with world.raw() as connection:
        assert (await declare(connection, world.topology)).is_left_alone
    assert len(asked) == 1, "RabbitMQ logs each refusal as an error"

"""The supervised connection: what ends it, how it comes back, and what it leaves behind."""

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from aiormq.abc import AbstractConnection

from dtq.broker.consumer import Consumer
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from hack.stack.rabbitmq import RabbitMQ
from tests.broker.world import World, bodies, running, take, up
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.waiting import LONG_SECONDS, SHORT_SECONDS, eventually

pytestmark = pytest.mark.timeout(300)  # brokers are killed and started again
BOUND_SECONDS = 5.0
"""How late, in seconds, an answer may be that was promised after 1 s: the machine may be busy."""


async def cut_and_back(broker: RabbitMQ, how: str) -> None:
    """Stop the broker, wait until every connection has noticed, and start it again."""
    if how == "stop_app":
        await rabbitmqctl(broker, "stop_app")
        await rabbitmqctl(broker, "start_app")
    else:
        await asyncio.to_thread(broker.kill)
        await asyncio.to_thread(broker.start)


async def is_down(publisher: Publisher, consumer: Consumer) -> bool:
    return not publisher.broker.is_up and not consumer.is_consuming


@pytest.mark.parametrize("how", ["kill -9", "stop_app"])
async def test_links_come_back_by_themselves_and_nothing_confirmed_is_lost(
    own_world: World, broker: RabbitMQ, how: str
) -> None:
    publisher, consumer = own_world.publisher(), own_world.consumer("high")
    async with running(publisher.broker, consumer.broker):
        assert await publisher.publish([own_world.message(f"{n}") for n in range(20)]) == [None] * 20
        cut = asyncio.ensure_future(cut_and_back(broker, how))
        await eventually(lambda: is_down(publisher, consumer), "both links know")
        with pytest.raises(Unavailable):
            publisher.check()
        assert (await publisher.publish([own_world.message()]))[0] is not None, "no confirm without a broker"
        await cut
        await up(publisher.broker)
        await up(consumer.broker)
        assert await publisher.publish([own_world.message("urgent", "high")]) == [None]
        assert bodies(await take(consumer, 1)) == ["urgent"]
        assert own_world.count("dq_broker_reconnects_total", purpose="publish") >= 1
    other = own_world.consumer("default")
    async with running(other.broker):
        assert sorted(bodies(await take(other, 20))) == sorted(f"{n}" for n in range(20))


async def test_queues_whose_processes_a_crash_took_are_back_once_they_are_deleted(
    own_world: World, broker: RabbitMQ
) -> None:
    """RabbitMQ (3.10) that crashes just after a queue is declared again comes back without the process of the queue."""
    publisher, consumer = own_world.publisher(), own_world.consumer("high")
    async with running(publisher.broker, consumer.broker):
        await asyncio.to_thread(broker.management.delete_vhost, own_world.vhost)
        await asyncio.to_thread(broker.management.create_vhost, own_world.vhost)
        await eventually(own_world.queues, "the queues are declared again")
        await cut_and_back(broker, "kill -9")
        for name in await own_world.queues():
            await own_world.delete_queue(name)

        async def is_taken() -> bool:
            if not publisher.broker.is_up:
                return False
            with suppress(Unavailable):
                await own_world.declarer.retry()
            return await publisher.publish([own_world.message("urgent", "high")]) == [None]

        await eventually(is_taken, "the queues are there again", LONG_SECONDS)
        await up(consumer.broker, 60.0)

        async def is_consumed() -> bool:
            await consumer.tend()
            return not consumer.missing

        await eventually(is_consumed, "the queue has a consumer", LONG_SECONDS)
        assert bodies(await take(consumer, 1)) == ["urgent"]


async def test_a_connection_closed_by_the_broker_comes_back(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        await eventually(lambda: _are_known(world, 2), "the management interface knows both")
        for connection in await world.management_call("GET", f"/api/vhosts/{world.vhost}/connections"):
            await world.management_call("DELETE", f"/api/connections/{quote(connection['name'], safe='')}")

        async def both_noticed() -> bool:
            counts = [world.count("dq_broker_reconnects_total", purpose=purpose) for purpose in ("publish", "consume")]
            return all(count >= 1 for count in counts)

        await eventually(both_noticed, "both links noticed")
        await up(publisher.broker)
        await up(consumer.broker)
        assert await publisher.publish([world.message("again")]) == [None]
        assert bodies(await take(consumer, 1)) == ["again"]


async def test_publishing_and_consuming_have_connections_of_their_own(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        await eventually(lambda: _are_known(world, 2), "the management interface knows both")
        assert sorted(await world.connections()) == ["dtq-consume", "dtq-publish"]


async def test_a_blocked_publisher_is_refused_in_time_while_consuming_goes_on(
    own_world: World, broker: RabbitMQ
) -> None:
    publisher, consumer = own_world.publisher(), own_world.consumer("default")
    async with running(publisher.broker, consumer.broker):
        assert await publisher.publish([own_world.message(f"{n}") for n in range(3)]) == [None] * 3
        publisher.check()
        publisher._timeout_seconds = 1.0
        try:
            await rabbitmqctl(broker, "set_vm_memory_high_watermark", "0")
            loop = asyncio.get_running_loop()
            asked_at = loop.time()
            (refused,) = await publisher.publish([own_world.message("late")])
            assert refused == "no confirm within 1 s"
            assert loop.time() - asked_at < BOUND_SECONDS
            # RabbitMQ says that it blocks only to those that publish meanwhile.
            await eventually(lambda: _is_blocked(publisher, expected=True), "the publisher knows")
            with pytest.raises(Unavailable, match="short of memory or disk"):
                publisher.check()
            taken = await take(consumer, 3)
            assert bodies(taken) == ["0", "1", "2"]
            await consumer.ack(taken)
            assert consumer.is_consuming
        finally:
            await rabbitmqctl(broker, "set_vm_memory_high_watermark", "0.4")

        await eventually(lambda: _is_blocked(publisher, expected=False), "the publisher is free again")
        publisher.check()
        publisher._timeout_seconds = BOUND_SECONDS
        assert await publisher.publish([own_world.message("now")]) == [None]
        # Not confirmed is not lost: the broker read it once it was well again.
        assert bodies(await take(consumer, 2)) == ["late", "now"]


async def test_a_broker_that_does_not_answer_holds_nobody_up(own_world: World, broker: RabbitMQ) -> None:
    publisher = own_world.publisher(timeout_seconds=1.0)
    async with running(publisher.broker):

        async def is_confirmed() -> bool:
            return await publisher.publish([own_world.message()]) == [None]

        await eventually(is_confirmed, "the broker confirms")
        await asyncio.to_thread(broker.pause)
        try:
            loop = asyncio.get_running_loop()
            asked_at = loop.time()
            results = await publisher.publish([own_world.message() for _ in range(10)])
            assert results == ["no confirm within 1 s"] * 10
            assert loop.time() - asked_at < BOUND_SECONDS
            with pytest.raises(Unavailable):
                publisher.check()  # the next request does not wait for a confirm that will not come
        finally:
            await asyncio.to_thread(broker.resume)
        # A connection that confirms nothing is given up: it might be dead without our being told.
        await up(publisher.broker)
        await eventually(is_confirmed, "the broker confirms again")


async def test_a_wrong_password_is_no_crash_and_is_not_told(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.url = world.url.replace(world.url.split(":")[2].split("@")[0], "s3cret-and-wrong")
    publisher = world.publisher()
    stop = asyncio.Event()
    task = asyncio.ensure_future(publisher.broker.run(stop))

    async def has_tried() -> bool:
        return world.count("dq_broker_reconnects_total", purpose="publish") >= 1

    await eventually(has_tried, "it tries again")
    stop.set()
    await task
    told = "".join(capsys.readouterr())
    assert "broker connection failed" in told
    assert "s3cret" not in told


async def test_a_link_that_never_connected_ends_when_told(world: World) -> None:
    world.url = "amqp://nobody:nothing@127.0.0.1:1/none"
    stop = asyncio.Event()
    task = asyncio.ensure_future(world.publisher().broker.run(stop))

    async def has_tried() -> bool:
        return world.count("dq_broker_reconnects_total", purpose="publish") >= 1

    await eventually(has_tried, "it tries again")
    stop.set()
    async with asyncio.timeout(BOUND_SECONDS):
        await task


async def test_a_bare_exception_of_the_driver_ends_the_connection_only(world: World) -> None:
    publisher = world.publisher()
    declare, failures = publisher.broker._setup, 0

    async def setup(connection: AbstractConnection) -> None:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise Exception("connection was stuck")  # noqa: TRY002 - as aiormq raises it
        await declare(connection)

    publisher.broker._setup = setup
    async with running(publisher.broker):
        assert await publisher.publish([world.message("after")]) == [None]
    assert failures == 2


async def test_starting_and_stopping_a_hundred_times_leaves_nothing_behind(world: World) -> None:
    async with running(world.publisher().broker, world.consumer().broker):
        pass
    before = _held()
    for _ in range(100):
        publisher, consumer = world.publisher(), world.consumer()
        async with running(publisher.broker, consumer.broker):
            assert await publisher.publish([world.message()]) == [None]
            await consumer.ack(await take(consumer, 1))
            await consumer.resubscribe()
            await consumer.drain()

    async def is_all_gone() -> bool:
        return all(now <= then for now, then in zip(_held(), before, strict=True))

    await eventually(
        is_all_gone, lambda: f"tasks, threads and descriptors are back at {before}, not {_held()}", SHORT_SECONDS
    )


def _held() -> tuple[int, int, int]:
    return len(asyncio.all_tasks()), threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


async def _are_known(world: World, count: int) -> bool:
    return len(await world.connections()) == count


async def _is_blocked(publisher: Publisher, *, expected: bool) -> bool:
    return publisher.broker.is_blocked is expected

"""Consuming: what arrives, what is given back, and how a deaf consumer is healed."""

import asyncio

import pytest

from dtq.broker.consumer import Consumer, ConsumerChannel
from dtq.domain.topology import main_exchange
from tests.broker.world import World, bodies, running, take, up
from tests.support.waiting import CHANGE_SECONDS, eventually


async def consuming(*consumers: Consumer) -> None:
    async def all_are() -> bool:
        return all(consumer.is_consuming for consumer in consumers)

    await eventually(all_are, "every consumer consumes again")


async def declare_again_at_once(world: World, queue: str) -> None:
    """Delete a queue and declare it again before the broker notifies its consumers."""
    async with world.raw() as connection:
        channel = await connection.channel()
        await channel.queue_delete(queue, nowait=True)
        arguments = next(declared.arguments for declared in world.topology.queues if declared.name == queue)
        await channel.queue_declare(queue, durable=True, arguments=dict(arguments))
        key = queue.removeprefix(f"{world.spec.namespace}.")
        await channel.queue_bind(queue, main_exchange(world.spec.namespace), routing_key=key)


async def test_what_is_published_arrives_and_is_gone_once_acknowledged(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        assert await publisher.publish([world.message(f"{n}") for n in range(5)]) == [None] * 5
        taken = await take(consumer, 5)
        assert bodies(taken) == ["0", "1", "2", "3", "4"]
        await consumer.ack(taken)
    consumer = world.consumer()
    async with running(consumer.broker):
        assert await take(consumer, 1, seconds=1) == []


async def test_what_was_not_acknowledged_is_delivered_again(world: World) -> None:
    publisher, first = world.publisher(), world.consumer()
    async with running(publisher.broker):
        async with running(first.broker):
            await publisher.publish([world.message("a"), world.message("b")])
            taken = await take(first, 2)
            await first.ack(taken[:1])
        second = world.consumer()
        async with running(second.broker):
            assert bodies(await take(second, 1)) == ["b"]
            assert await take(second, 1, seconds=1) == []


async def test_the_prefetch_bounds_what_waits_unacknowledged(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default", prefetch=3)
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message(f"{n}") for n in range(10)])
        for _ in range(2):
            taken = await take(consumer, 3)
            assert len(taken) == 3
            assert await take(consumer, 1, seconds=1) == []
            await consumer.ack(taken)


async def test_a_queue_keeps_a_consumer_while_the_window_grows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    consumer = world.consumer("default", prefetch=32)
    close, consumers = Consumer._close, list[int | None]()

    async with world.raw() as connection:
        channel = await connection.channel()

        async def close_and_look(self: Consumer, feed: ConsumerChannel) -> None:
            await close(self, feed)
            consumers.append((await channel.queue_declare("tasks.default", passive=True)).consumer_count)

        async with running(consumer.broker):
            await consumer.resize(4)
            monkeypatch.setattr(Consumer, "_close", close_and_look)
            await consumer.resize(32)
            # The broker forgets a closed consumer a little later, so it may still count both.
            assert all(consumers), "in between, what other workers hand on would have come back to them"
            assert len(consumers) == 1, "each queue's consumer is replaced once"


async def test_the_urgent_queue_gets_more_and_the_other_still_some(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        for queue in ("high", "default"):
            await publisher.publish([world.message(queue, queue) for _ in range(20)])

        async def all_arrived() -> bool:
            return sum(len(buffer) for buffer in consumer._buffers.values()) == 40

        await eventually(all_arrived, "all messages are in the buffers")
        taken = bodies(await consumer.take(9, 1))
        assert taken.count("high") == 6
        assert taken.count("default") == 3


async def test_what_is_put_back_comes_first_again(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default")
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message(f"{n}") for n in range(4)])
        taken = await take(consumer, 4)
        consumer.put_back(taken)
        assert bodies(await take(consumer, 4)) == ["0", "1", "2", "3"]


async def test_draining_gives_every_delivery_back_at_once(world: World) -> None:
    publisher, leaving, staying = world.publisher(), world.consumer(), world.consumer()
    async with running(publisher.broker, leaving.broker):
        await publisher.publish([world.message(f"{n}") for n in range(10)])
        taken = await take(leaving, 10)
        leaving.put_back(taken)
        async with running(staying.broker):
            await leaving.drain()
            assert sorted(bodies(await take(staying, 10))) == [f"{n}" for n in range(10)]
        assert await leaving.take(10, 0.2) == []
        assert not leaving.is_consuming


@pytest.mark.parametrize("count", [1, 2], ids=["one consumer", "two consumers"])
async def test_consumers_of_a_queue_deleted_by_hand_declare_it_and_go_on(world: World, count: int) -> None:
    publisher, consumers = world.publisher(), [world.consumer() for _ in range(count)]
    links = [consumer.broker for consumer in consumers]
    async with running(publisher.broker, *links):
        await publisher.publish([world.message(f"{n}") for n in range(6)])
        for consumer in consumers:
            await consumer.ack(await take(consumer, 6 // count))
        await world.delete_queue("tasks.default")

        async def all_noticed() -> bool:
            return world.count("dq_broker_reconnects_total", purpose="consume") >= count

        await eventually(all_noticed, "every consumer was told")
        await consuming(*consumers)
        assert world.lost
        await publisher.publish([world.message(f"again {n}") for n in range(20)])
        for consumer in consumers:
            assert await take(consumer, 5), "each of them hears"


@pytest.mark.parametrize("count", [1, 2], ids=["one consumer", "two consumers"])
async def test_a_consumer_that_the_broker_made_deaf_hears_again_after_its_renewal(world: World, count: int) -> None:
    publisher, consumers = world.publisher(), [world.consumer() for _ in range(count)]
    async with running(publisher.broker, *(consumer.broker for consumer in consumers)):
        for _ in range(10):  # what a consumer had been sent, it will not hear after the queue's return
            await publisher.publish([world.message() for _ in range(count)])
            for consumer in consumers:
                taken = await take(consumer, 1)
                assert len(taken) == 1
                await consumer.ack(taken)
        await declare_again_at_once(world, "tasks.default")
        await publisher.publish([world.message(f"{n}") for n in range(2 * count)])
        deaf = [await take(consumer, 2, seconds=0.5) for consumer in consumers]
        assert deaf == [[]] * count, "if this fails, RabbitMQ has been mended: good"
        assert all(consumer.is_consuming for consumer in consumers), "nothing tells"

        for consumer in consumers:
            await consumer.resubscribe()
        heard: list[str] = []

        async def all_heard() -> bool:
            for consumer in consumers:
                heard.extend(bodies(await consumer.take(2 * count, 0.2)))
            return len(heard) >= 2 * count

        await eventually(all_heard, "every message was heard")
        assert [await take(consumer, 1, seconds=1) for consumer in consumers] == [[]] * count
        assert sorted(heard) == [f"{n}" for n in range(2 * count)]
        assert world.count("dq_broker_reconnects_total", purpose="consume") == 0


async def test_a_queue_that_was_lost_is_declared_again_only_when_its_consumers_know(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message(f"{n}") for n in range(8)])
        await consumer.ack(await take(consumer, 8))
        async with world.raw() as connection:
            await (await connection.channel()).queue_delete("tasks.default")
        await publisher.declare()
        assert await publisher.publish([world.message("later")]) == [None]
        assert bodies(await take(consumer, 1)) == ["later"]


async def test_a_renewal_loses_and_repeats_nothing_under_load(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default", prefetch=10)
    heard: list[str] = []
    async with running(publisher.broker, consumer.broker):
        done = asyncio.Event()

        async def consume() -> None:
            while not done.is_set():
                taken = await consumer.take(10, 0.1)
                heard.extend(bodies(taken))
                await consumer.ack(taken)

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(consume())
            for n in range(20):
                await publisher.publish([world.message(f"{n}.{k}") for k in range(20)])
                await consumer.resubscribe()

            async def all_heard() -> bool:
                return len(set(heard)) == 400

            await eventually(all_heard, "every message was heard", CHANGE_SECONDS)
            done.set()
    assert len(heard) == 400


async def test_a_renewal_leaves_alone_what_waits_for_a_slot(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default", prefetch=2)
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message(f"{n}") for n in range(4)])
        taken = await take(consumer, 2)
        await consumer.resubscribe()
        assert await take(consumer, 1, seconds=0.5) == [], "a renewal must not hoard"
        await consumer.ack(taken)
        assert bodies(await take(consumer, 2)) == ["2", "3"]


async def test_a_renewal_that_finds_no_queue_rebuilds_the_link(world: World) -> None:
    consumer = world.consumer()
    async with running(consumer.broker):
        feed = consumer._feeds["high"]
        feed.channel.on_consumer_cancel_callbacks.clear()  # the broker's cancel is lost on the way
        await world.delete_queue("tasks.high")
        await consumer.resubscribe()
        await up(consumer.broker)
        await consuming(consumer)
        assert "tasks.high" in await world.queues()


async def test_a_closed_channel_brings_the_whole_link_back(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default")
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message("first")])
        (delivery,) = await take(consumer, 1)
        # Acknowledging what was never delivered makes the broker close the channel.
        await delivery.feed.channel.basic_ack(99_999)

        async def is_noticed() -> bool:
            return world.count("dq_broker_reconnects_total", purpose="consume") >= 1

        await eventually(is_noticed, "the closed channel is noticed")
        await up(consumer.broker)
        await consumer.ack([delivery])  # its channel is gone: nothing happens
        assert bodies(await take(consumer, 1)) == ["first"]


async def test_what_cannot_be_put_back_on_its_dead_channel_is_dropped(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default")
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([world.message("once")])
        taken = await take(consumer, 1)
        consumer.broker.invalidate("test")
        await eventually(lambda: _is(taken[0].feed.channel.is_closed), "the old channel is closed")
        await up(consumer.broker)
        consumer.put_back(taken)
        assert bodies(await take(consumer, 2, seconds=2)) == ["once"]


async def _is(value: bool) -> bool:  # noqa: FBT001
    return value

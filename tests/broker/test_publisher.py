"""Publishing: a confirm means that the message is kept, and everything else is told, in time."""

import asyncio
from uuid import uuid4

import pytest
from pamqp.commands import Basic

from dtq.broker import messages
from dtq.broker.publish_window import Message
from dtq.domain.errors import Unavailable
from dtq.domain.topology import retry_queue
from tests.broker.world import World, running, spec_of, take
from tests.support.waiting import SHORT_SECONDS, eventually


async def test_a_confirmed_message_is_kept_once_and_persistently(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        assert await publisher.publish([world.message(f"{n}") for n in range(500)]) == [None] * 500
        async with world.raw() as connection:
            channel = await connection.channel()
            first = await channel.basic_get("tasks.default")
            assert first.header.properties.delivery_mode == 2
            assert first.header.properties.message_id
            await world.becomes_ready("tasks.default", 499)
        assert world.count("dq_publish_total", result="ok") == 500


async def test_windows_of_many_publishers_of_one_process_do_not_mix(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        windows = [[world.message(f"{n}.{k}", queue) for k in range(20)] for n in range(10) for queue in ("high", "no")]
        results = await asyncio.gather(*(publisher.publish(window) for window in windows))
        for window, result in zip(windows, results, strict=True):
            known = window[0].routing_key == "high"
            assert [outcome is None for outcome in result] == [known] * 20


async def test_a_message_that_no_queue_is_bound_for_is_told_as_returned(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        results = await publisher.publish([world.message("a"), world.message("b", "unknown"), world.message("c")])
        assert results == [None, "returned: no queue is bound for it", None]


async def test_a_binding_deleted_by_hand_is_mended_by_the_publish_that_finds_it_missing(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        await world.unbind("tasks.direct", "tasks.default", "default")
        assert await publisher.publish([world.message("a")]) == [None]
        assert world.count("dq_publish_total", result="returned") == 1


async def test_a_queue_deleted_by_hand_is_mended_by_the_publish_that_finds_it_missing(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        world.lost.clear()
        await world.delete_queue("tasks.default")
        assert await publisher.publish([world.message("a")]) == [None]
        assert ("default", "default") in world.lost, "what was in it is to be published again"
        assert world.count("dq_topology_repairs_total") >= 1


async def test_an_exchange_deleted_by_hand_is_mended_by_the_publish_that_finds_it_missing(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        await world.delete_exchange("tasks.direct")
        assert await publisher.publish([world.message("a")]) == [None]


async def test_a_window_that_meets_a_missing_exchange_ends_in_time_and_the_exchange_comes_back(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        await world.delete_exchange("tasks.direct")

        # Frames that cross the closing of their channel may cost the connection: then the link declares.
        async def all_are_kept() -> bool:
            async with asyncio.timeout(10):
                return await publisher.publish([world.message(f"{n}") for n in range(50)]) == [None] * 50

        await eventually(all_are_kept, "the exchange is back")


async def test_an_exchange_that_nobody_declares_is_told_and_the_next_window_passes(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        results = await publisher.publish([world.message("a", exchange="stranger")])
        assert results == ["the exchange is missing"]
        assert await publisher.publish([world.message("b")]) == [None]


@pytest.mark.parametrize("kind", ["Quorum", "Classic"])
async def test_a_full_queue_refuses_and_goes_on_once_there_is_room(world: World, kind: str) -> None:
    world.spec = spec_of(queues=[{"name": "default", "type": kind, "maxLength": 3}])
    publisher = world.publisher()
    async with running(publisher.broker):
        # A quorum queue takes a few more than its length before it refuses.
        results = [(await publisher.publish([world.message(f"{n}")]))[0] for n in range(30)]
        refused = [outcome for outcome in results if outcome is not None]
        assert set(refused) == {"refused by the broker: the queue is full"}
        assert results[:3] == [None] * 3
        assert world.count("dq_publish_total", result="refused") == len(refused)
        consumer = world.consumer("default")
        async with running(consumer.broker):
            taken = await take(consumer, results.count(None))
            assert len(taken) == results.count(None), "nothing confirmed was dropped, nothing refused was kept"
            await consumer.ack(taken)

            async def is_taken() -> bool:
                return await publisher.publish([world.message("room")]) == [None]

            await eventually(is_taken, "there is room again")


async def test_a_queue_that_nobody_consumes_takes_messages_again_once_its_limit_is_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dtq.broker.publisher.RENEW_SECONDS", 1.0)
    publisher = world.publisher(timeout_seconds=1.0)

    async def sent() -> str | None:
        return (await publisher.publish([messages.dead_letter("tasks", "default", uuid4(), "a.b")]))[0]

    async def is_refused() -> bool:
        return await sent() is not None

    async def is_taken() -> bool:
        return await sent() is None

    async with running(publisher.broker):
        async with world.limited("tasks.dlq", 1):
            await eventually(is_refused, "the queue is full")
        await eventually(is_taken, "there is room again", SHORT_SECONDS)


async def test_without_a_broker_a_publish_is_refused_at_once(world: World) -> None:
    world.url = "amqp://nobody:nothing@127.0.0.1:1/none"
    publisher = world.publisher()
    with pytest.raises(Unavailable, match="not connected"):
        publisher.check()
    with pytest.raises(Unavailable, match="not connected"):
        await publisher.declare()
    async with asyncio.timeout(1):
        results = await publisher.publish([world.message("a"), world.message("b")])
    assert [str(outcome).startswith("not connected") for outcome in results] == [True, True]
    assert world.count("dq_publish_total", result="lost") == 2


async def test_publishing_without_the_right_to_declare_is_told_and_raises_nothing(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        await world.delete_queue("tasks.default")
        await world.permit(configure="^$")
        assert await publisher.publish([world.message("a")]) == ["returned: no queue is bound for it"]
        assert await publisher.publish([world.message("a", "high")]) == [None]


async def test_a_retry_waits_in_its_retry_queue_and_comes_back_to_its_queue(world: World) -> None:
    world.spec = spec_of(retry={"delaysSeconds": [1, 3600]})
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        slow, quick, jittered = (uuid4() for _ in range(3))
        sent = [
            messages.retry("tasks", "high", slow, "a.b", retry_delay=3600, delay_seconds=3600),
            messages.retry("tasks", "high", quick, "a.b", retry_delay=1, delay_seconds=1),
            # Jitter shortens the message's own TTL below that of its retry queue.
            messages.retry("tasks", "default", jittered, "a.b", retry_delay=3600, delay_seconds=0.3),
        ]
        loop = asyncio.get_running_loop()
        sent_at = loop.time()
        assert await publisher.publish(sent) == [None] * 3
        taken = await take(consumer, 2)
        arrived = sorted((delivery.queue, str(quick) in delivery.body.decode()) for delivery in taken)
        assert arrived == [("default", False), ("high", True)]
        assert loop.time() - sent_at > 0.9, "not before its delay"
        await consumer.ack(taken)
        assert await take(consumer, 1, seconds=0.5) == [], "an hour is an hour"
        await world.becomes_ready(retry_queue("tasks", "high", 3600), 1)


async def test_a_retry_that_a_full_queue_refuses_holds_up_none_behind_it(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer("default")
    async with running(publisher.broker):
        async with world.limited("tasks.default", 1):
            many = [
                messages.retry("tasks", "default", uuid4(), "a.b", retry_delay=1, delay_seconds=0.1) for _ in range(50)
            ]
            assert await publisher.publish(many) == [None] * 50

            async def all_are_due() -> bool:
                return bool((await world.queues())["tasks.retry.default.1s"].get("messages_ready") == 0)

            await eventually(all_are_due, "every retry has left its queue")
        async with running(consumer.broker):
            late = uuid4()
            await publisher.publish([messages.retry("tasks", "default", late, "a.b", retry_delay=1, delay_seconds=1)])

            async def has_come() -> bool:
                taken = await consumer.take(100, 0.5)
                await consumer.ack(taken)
                return any(str(late) in delivery.body.decode() for delivery in taken)

            await eventually(has_come, "a later retry comes in time", SHORT_SECONDS)


async def test_a_dead_letter_arrives_in_the_dead_letter_queue_with_its_routing_key(world: World) -> None:
    publisher = world.publisher()
    async with running(publisher.broker):
        assert await publisher.publish([messages.dead_letter("tasks", "high", uuid4(), "a.b")]) == [None]
        async with world.raw() as connection:
            message = await (await connection.channel()).basic_get("tasks.dlq")
            assert isinstance(message.delivery, Basic.GetOk)
            assert message.delivery.routing_key == "high"


async def test_a_message_larger_than_a_frame_arrives_whole(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    async with running(publisher.broker, consumer.broker):
        assert await publisher.publish([world.message("x" * 400_000)]) == [None]
        (delivery,) = await take(consumer, 1)
        assert len(delivery.body) == 400_000


async def test_nothing_to_publish_is_no_error(world: World) -> None:
    publisher = world.publisher()
    empty: list[Message] = []
    assert await publisher.publish(empty) == []

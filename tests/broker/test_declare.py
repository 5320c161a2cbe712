"""Declaring: idempotent, honest about what was missing or different, and never destructive."""

import asyncio
import time
from uuid import UUID, uuid4

import pytest
from aiormq.channel import Channel
from aiormq.exceptions import AMQPError

from dtq.broker import messages
from dtq.broker.admin import Admin, connected, ready_counts
from dtq.broker.dead_letters import drop_spent
from dtq.broker.declare import SETTLE_SECONDS, Channels, declare, message_count
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.topology import topology_of
from hack.stack.rabbitmq import RabbitMQ
from tests.broker.world import World, bodies, running, spec_of, take
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.waiting import eventually


async def test_a_topology_is_declared_whole_and_a_second_time_nothing_is_missing(world: World) -> None:
    async with world.raw() as connection:
        first = await declare(connection, world.topology)
        assert first.missing == {queue.name for queue in world.topology.queues}
        second = await declare(connection, world.topology)
    assert (second.missing, second.mismatched) == (set(), {})
    queues = await world.queues()
    assert set(queues) == first.missing
    assert all(queue["durable"] for queue in queues.values())
    assert {queue["arguments"]["x-overflow"] for queue in queues.values()} == {"reject-publish"}
    assert {queue["type"] for queue in queues.values()} == {"quorum"}


async def test_a_queue_that_was_lost_is_declared_after_a_pause(world: World) -> None:
    async with world.raw() as connection:
        await declare(connection, world.topology)
        await (await connection.channel()).queue_delete("tasks.default")
        started_at = time.monotonic()
        assert (await declare(connection, world.topology)).missing == {"tasks.default"}
        assert time.monotonic() - started_at > SETTLE_SECONDS, "its consumers must hear of it first"


async def test_a_queue_deleted_during_a_declaration_is_not_made_again_unnoticed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.raw() as connection, world.raw() as other:
        await declare(connection, world.topology)
        channel = await other.channel()

        async def count_then_delete(channels: Channels, queue: str) -> int | None:
            count = await message_count(channels, queue)
            if queue == world.topology.queues[-1].name:
                await channel.queue_delete("tasks.high")
            return count

        with monkeypatch.context() as patched:
            patched.setattr("dtq.broker.declare.message_count", count_then_delete)
            with pytest.raises(AMQPError):
                await declare(connection, world.topology)
        assert (await declare(connection, world.topology)).missing == {"tasks.high"}


async def test_a_queue_with_other_arguments_is_reported_and_left_alone_with_what_it_holds(world: World) -> None:
    async with world.raw() as connection:
        channel = await connection.channel()
        await channel.queue_declare("tasks.default", durable=True, arguments={"x-queue-type": "classic"})
        await channel.basic_publish(b"kept", routing_key="tasks.default", mandatory=True)
        found = await declare(connection, world.topology)
        assert list(found.mismatched) == ["tasks.default"]
        assert "inequivalent arg" in found.mismatched["tasks.default"]
        assert "tasks.high" in found.missing, "its neighbours are declared all the same"
        message = await channel.basic_get("tasks.default")
        assert message.body == b"kept"
        assert (await world.queues())["tasks.default"]["type"] == "classic"


async def test_an_exchange_of_another_kind_is_reported_and_left_alone(world: World) -> None:
    async with world.raw() as connection:
        await (await connection.channel()).exchange_declare("tasks.dlx", exchange_type="fanout", durable=True)
        found = await declare(connection, world.topology)
        assert list(found.mismatched) == ["tasks.dlx"]


async def test_the_declarer_remembers_a_mismatch_until_it_is_gone(world: World) -> None:
    async with world.raw() as connection:
        channel = await connection.channel()
        await channel.queue_declare("tasks.high", durable=True, arguments={"x-queue-type": "classic"})
        await world.declarer.declare(connection)
        assert [*world.declarer.mismatched["default"]] == ["tasks.high"]
        await channel.queue_delete("tasks.high")
        await world.declarer.declare(connection)
        assert world.declarer.mismatched == {}


async def test_the_declarer_reports_queues_that_may_have_lost_messages(world: World) -> None:
    async with world.raw() as connection:
        await world.declarer.declare(connection)
        world.lost.clear()
        await world.declarer.declare(connection)
        assert world.lost == []
        await (await connection.channel()).queue_delete("tasks.retry.high.1s")
        await world.declarer.declare(connection)
    assert world.lost == [("default", "high"), ("default", "default")]


async def test_the_declarer_reports_lost_dead_letters_until_the_report_succeeds(world: World) -> None:
    async with world.raw() as connection:
        await world.declarer.declare(connection)
        world.dead_letters_lost.clear()
        await (await connection.channel()).queue_delete("tasks.retry.high.1s")
        await world.declarer.declare(connection)
        assert world.dead_letters_lost == []
        await (await connection.channel()).queue_delete("tasks.dlq")
        world.is_away = True
        with pytest.raises(Unavailable):
            await world.declarer.declare(connection)
        world.is_away = False
        for _ in range(2):
            await world.declarer.declare(connection)
    assert world.dead_letters_lost == ["default"]


async def test_a_loss_is_reported_even_if_the_declaration_that_repairs_it_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with world.raw() as connection:
        await world.declarer.declare(connection)
        world.lost.clear()
        await (await connection.channel()).queue_delete("tasks.default")

        async def break_off(*_: object, **__: object) -> None:
            await connection.close()
            raise ConnectionResetError

        with monkeypatch.context() as patched:
            patched.setattr(Channel, "queue_bind", break_off)
            with pytest.raises(ConnectionResetError):
                await world.declarer.declare(connection)
    assert world.lost == []
    async with world.raw() as connection:
        await world.declarer.declare(connection)
    assert world.lost == [("default", "high"), ("default", "default")]


async def test_two_declarers_at_once_do_no_harm(world: World) -> None:
    async with world.raw() as first, world.raw() as second:
        found = await asyncio.gather(declare(first, world.topology), declare(second, world.topology))
    assert all(result.mismatched == {} for result in found)


async def test_without_the_right_to_declare_a_whole_topology_is_taken_as_it_is(world: World) -> None:
    async with world.raw() as connection:
        await declare(connection, world.topology)
        await world.permit(configure="^$")
    async with world.raw() as connection:
        assert (await declare(connection, world.topology)).missing == set()


async def test_without_the_right_to_declare_a_missing_queue_is_a_refusal(world: World) -> None:
    await world.permit(configure="^$")
    async with world.raw() as connection:
        with pytest.raises(Rejected, match="grant configure"):
            await declare(connection, world.topology)
    async with connected(world.url) as admin:
        with pytest.raises(Rejected, match="grant configure"):
            await admin.declare(world.topology)


async def test_the_administrator_counts_unbinds_and_deletes(world: World) -> None:
    async with connected(world.url) as admin:
        assert set((await admin.ready(world.topology)).values()) == {None}
        await admin.declare(world.topology)
        assert set((await admin.ready(world.topology)).values()) == {0}
        publisher = world.publisher()
        async with running(publisher.broker):
            await publisher.publish([world.message("a"), world.message("b")])
            assert (await admin.counts(["tasks.default", "nothing"])) == {"tasks.default": 2, "nothing": None}
            assert await ready_counts(publisher.broker, ["tasks.default", "no"]) == {"tasks.default": 2, "no": None}
        await admin.unbind(world.topology)
        await admin.unbind(world.topology)
        assert (await admin.counts(["tasks.default"])) == {"tasks.default": 2}, "unbinding loses nothing"
        await admin.delete(world.topology)
        await admin.delete(world.topology)
    assert await world.queues() == {}


async def test_a_queue_whose_leader_is_busy_is_not_taken_for_empty(own_world: World, broker: RabbitMQ) -> None:
    suspend = f"P = whereis('{own_world.vhost}_tasks.default'), sys:suspend(P), timer:sleep(2000), sys:resume(P)."
    async with connected(own_world.url) as admin:
        await admin.declare(own_world.topology)
        publisher = own_world.publisher()
        async with running(publisher.broker):
            assert await publisher.publish([own_world.message()]) == [None]

        async def is_said_to_be_empty() -> bool:
            return await admin.counts(["tasks.default"]) == {"tasks.default": 0}

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(rabbitmqctl(broker, "eval", suspend))
            await eventually(is_said_to_be_empty, "RabbitMQ says 0 while the leader is busy")
            held = await admin.holding(own_world.topology)
        assert {name for name, count in held.items() if count} == {"tasks.default"}
        await own_world.becomes_ready("tasks.default", 1)


@pytest.mark.parametrize("url", ["amqp://u:p@127.0.0.1:1/x", "{}-none"], ids=["nobody listens", "no such vhost"])
async def test_an_administrator_who_cannot_connect_is_told_in_time(world: World, url: str) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable, match="RabbitMQ does not answer") as told:
            async with connected(url.format(world.url)):
                pass
    assert world.management.password not in str(told.value)


async def test_an_administrator_whose_connection_dies_is_told(world: World) -> None:
    async with world.raw() as connection:
        admin = Admin(connection)
        await connection.close()
        with pytest.raises(Unavailable):
            await admin.counts(["tasks.default"])


async def test_a_walk_over_the_dead_letters_drops_only_what_is_named_as_spent(world: World) -> None:
    publisher = world.publisher()
    ids = [uuid4() for _ in range(250)]
    spent = set(ids[::2])

    async def which(asked: list[UUID]) -> set[UUID]:
        return spent & set(asked)

    async with running(publisher.broker):
        await publisher.publish([messages.dead_letter("tasks", "default", id_, "a.b") for id_ in ids])
        stranger = world.message("no envelope", "default", exchange="tasks.dlx")
        await publisher.publish([stranger])
        assert await drop_spent(publisher.broker, "tasks.dlq", which) == 125
        await world.becomes_ready("tasks.dlq", 126)
        assert await drop_spent(publisher.broker, "tasks.dlq", which) == 0
        with pytest.raises(Unavailable):
            await drop_spent(publisher.broker, "no-such-queue", which)


async def test_a_changed_ladder_keeps_what_waits_on_the_old_one(world: World) -> None:
    publisher, consumer = world.publisher(), world.consumer()
    task_id = uuid4()
    async with running(publisher.broker, consumer.broker):
        await publisher.publish([messages.retry("tasks", "high", task_id, "a.b", retry_delay=1, delay_seconds=1)])
        world.spec = spec_of(retry={"delaysSeconds": [60]})
        await publisher.declare()
        assert topology_of(world.spec).queues[2].name == "tasks.retry.high.60s"
        assert str(task_id) in bodies(await take(consumer, 1))[0]

"""A window of messages: each gets its own result, and a message that was never written is never confirmed."""

import asyncio

from aiormq.channel import Channel
from aiormq.exceptions import ChannelNotFoundEntity, PublishError

from dtq.broker.publish_window import WRITE_MESSAGES, publish_window
from tests.broker.world import World, running


def numbered(prefix: str, count: int) -> list[str]:
    """Ids of messages."""
    return [f"{prefix}{number}" for number in range(count)]


async def test_each_message_of_a_window_of_many_writes_is_told_its_own_fate(world: World) -> None:
    count = 3 * WRITE_MESSAGES + 7
    async with running(world.publisher().broker), world.raw() as connection:
        messages = [world.message(f"{n}", "nowhere" if n % 7 == 0 else "default") for n in range(count)]
        channel = await connection.channel()
        met = await publish_window(channel, messages, numbered("m", count), timeout_seconds=10)
        assert [type(error) for error in met] == [PublishError if n % 7 == 0 else type(None) for n in range(count)]
        await world.becomes_ready("tasks.default", sum(n % 7 != 0 for n in range(count)))


async def test_what_was_not_written_in_time_is_never_confirmed_and_shifts_no_later_confirm(world: World) -> None:
    async with running(world.publisher().broker), world.raw() as connection:
        channel = await connection.channel()
        assert isinstance(channel, Channel)
        async with channel.lock:
            unwritten = [world.message("never") for _ in range(3)]
            met = await publish_window(channel, unwritten, numbered("u", 3), timeout_seconds=0.2)
        assert [type(error) for error in met] == [TimeoutError] * 3
        after = [world.message("a", "nowhere"), world.message("b"), world.message("c", "nowhere")]
        met = await publish_window(channel, after, numbered("a", 3), timeout_seconds=10)
        assert [type(error) for error in met] == [PublishError, type(None), PublishError]
        await world.becomes_ready("tasks.default", 1)


async def test_a_channel_that_closes_tells_what_is_open_and_keeps_what_was_confirmed(world: World) -> None:
    async with running(world.publisher().broker), world.raw() as connection:
        channel = await connection.channel()
        assert isinstance(channel, Channel)
        assert await publish_window(channel, [world.message("a")], ["a"], timeout_seconds=10) == [None]
        lost = [world.message("b", exchange="stranger"), world.message("c")]
        async with asyncio.timeout(5):
            met = await publish_window(channel, lost, ["b", "c"], timeout_seconds=10)
        assert [type(error) for error in met] == [ChannelNotFoundEntity] * 2
        assert not channel.message_id_delivery_tag, "nothing is kept of a window that has ended"

"""A window of messages: each gets its own result, and a message that was never written is never confirmed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiormq.exceptions import ChannelNotFoundEntity

from dtq.broker.broker_connection import connect, hang_up
from dtq.broker.confirms import Returned
from dtq.broker.publish_window import WRITE_MESSAGES, PublishChannel
from tests.broker.world import World, running

BOTH = pytest.mark.parametrize("frames", ["dtq", "driver"])


@asynccontextmanager
async def publishing(world: World, frames: str = "dtq") -> AsyncIterator[PublishChannel]:
    """Declare the topology, and open a channel; `frames` says who reads and writes."""
    async with running(world.publisher().broker):
        connection = await connect(f"{world.url}?frames={frames}", "test")
        try:
            yield await PublishChannel.open(connection)
        finally:
            await hang_up(connection)


@BOTH
async def test_each_message_of_a_window_of_many_writes_is_told_its_own_fate(world: World, frames: str) -> None:
    count = 3 * WRITE_MESSAGES + 7
    async with publishing(world, frames) as channel:
        messages = [world.message(f"{n}", "nowhere" if n % 7 == 0 else "default") for n in range(count)]
        met = await channel.publish(messages, timeout_seconds=20)
        assert [type(error) for error in met] == [Returned if n % 7 == 0 else type(None) for n in range(count)]
        await world.becomes_ready("tasks.default", sum(n % 7 != 0 for n in range(count)))


async def test_windows_that_are_published_together_get_their_own_results(world: World) -> None:
    async with publishing(world) as channel:
        windows = [[world.message(f"{n}", "nowhere" if n == 3 else "default")] * (n + 1) for n in range(6)]
        met = await asyncio.gather(*(channel.publish(window, timeout_seconds=10) for window in windows))
        assert [[type(error) for error in results] for results in met] == [
            [Returned if n == 3 else type(None)] * (n + 1) for n in range(6)
        ]


async def test_what_was_not_written_in_time_is_never_confirmed_and_shifts_no_later_confirm(world: World) -> None:
    async with publishing(world) as channel:
        write = channel._connection.write

        async def write_and_hang(data: bytes) -> None:
            await write(data)
            await asyncio.Event().wait()  # as while the socket takes no more

        channel._connection.write = write_and_hang  # type: ignore[method-assign]
        many = [world.message("first") for _ in range(WRITE_MESSAGES + 3)]
        met = await channel.publish(many, timeout_seconds=2)
        assert [type(error) for error in met[WRITE_MESSAGES:]] == [TimeoutError] * 3
        channel._connection.write = write  # type: ignore[method-assign]
        after = [world.message("a", "nowhere"), world.message("b"), world.message("c", "nowhere")]
        met = await channel.publish(after, timeout_seconds=10)
        assert [type(error) for error in met] == [Returned, type(None), Returned]
        await world.becomes_ready("tasks.default", WRITE_MESSAGES + 1)


@BOTH
async def test_a_channel_that_closes_tells_what_is_open_and_keeps_what_was_confirmed(world: World, frames: str) -> None:
    async with publishing(world, frames) as channel:
        assert await channel.publish([world.message("a")], timeout_seconds=10) == [None]
        lost = [world.message("b", exchange="stranger"), world.message("c")]
        async with asyncio.timeout(5):
            met = await channel.publish(lost, timeout_seconds=10)
        assert [type(error) for error in met] == [ChannelNotFoundEntity] * 2
        assert not channel._confirms._open, "nothing is kept of a window that has ended"

"""The network that lies: what each kind of bad weather does to a connection."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
import pytest_asyncio

from dtq.runtime.loops import wait
from tests.faults.proxy import FAIR, Proxy, Weather

SILENCE_SECONDS = 0.3
ANSWER_SECONDS = 10.0


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@pytest_asyncio.fixture(loop_scope="session")
async def proxy() -> AsyncIterator[Proxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    async with server, Proxy(*server.sockets[0].getsockname()) as before_it:
        yield before_it


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def receive(self, size: int) -> bytes:
        async with asyncio.timeout(ANSWER_SECONDS):
            return await self._reader.readexactly(size)

    async def ask(self, data: bytes) -> bytes:
        self.send(data)
        return await self.receive(len(data))

    async def hears_nothing(self) -> bool:
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                await self._reader.read(1)
        except TimeoutError:
            return True
        return False


Connect = Callable[[Proxy], Awaitable[Client]]


@pytest_asyncio.fixture(loop_scope="session")
async def connect() -> AsyncIterator[Connect]:
    writers: list[asyncio.StreamWriter] = []

    async def open_one(proxy: Proxy) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writers.append(writer)
        return Client(reader, writer)

    yield open_one
    for writer in writers:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def test_in_fair_weather_every_byte_arrives_unchanged(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    data = bytes(range(256)) * 4096
    assert await client.ask(data) == data


async def test_latency_delays_each_piece_in_each_direction(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"warm")
    proxy.become(Weather(latency_seconds=0.2))
    loop = asyncio.get_running_loop()
    before = loop.time()
    await client.ask(b"slow")
    assert loop.time() - before >= 0.4


async def test_a_blackhole_swallows_nothing_and_says_nothing_until_it_clears(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"warm")
    proxy.become(Weather(blackhole=True))
    client.send(b"held")
    assert await client.hears_nothing()
    proxy.become(FAIR)
    assert await client.receive(4) == b"held"


async def test_a_connection_made_in_a_blackhole_works_once_it_clears(proxy: Proxy, connect: Connect) -> None:
    proxy.become(Weather(blackhole=True))
    client = await connect(proxy)
    client.send(b"late")
    assert await client.hears_nothing()
    proxy.become(FAIR)
    assert await client.receive(4) == b"late"


async def test_a_reset_is_seen_by_the_client_and_new_connections_work(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"warm")
    assert proxy.reset() == 1
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await client.receive(1)
    assert await (await connect(proxy)).ask(b"anew") == b"anew"


async def test_a_half_closed_connection_is_silent_for_ever_but_new_ones_work(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"warm")
    assert proxy.half_close() == 1
    client.send(b"into the void")
    assert await client.hears_nothing()
    proxy.become(FAIR)
    assert await client.hears_nothing()
    assert await (await connect(proxy)).ask(b"anew") == b"anew"


async def test_a_dripping_link_takes_its_time_and_speeds_up_when_it_clears(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    proxy.become(Weather(bytes_per_second=1000))
    data = b"x" * 200_000
    client.send(data)
    assert await client.receive(50) == b"x" * 50
    await wait(asyncio.Event(), SILENCE_SECONDS)
    proxy.become(FAIR)
    assert await client.receive(len(data) - 50) == data[50:]


async def test_a_server_that_is_not_there_is_a_reset(connect: Connect) -> None:
    async with Proxy("127.0.0.1", 1) as proxy:
        client = await connect(proxy)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await client.receive(1)


async def test_a_connection_that_both_sides_ended_is_forgotten(proxy: Proxy, connect: Connect) -> None:
    client = await connect(proxy)
    await client.ask(b"warm")
    assert proxy.connections == 1
    client._writer.write_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await client.receive(1)
    async with asyncio.timeout(ANSWER_SECONDS):
        while proxy.connections:
            await wait(asyncio.Event(), 0.01)


async def test_a_question_whose_answer_is_lost_has_arrived() -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(100))
        writer.write(b"done")
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    async with server, Proxy(*server.sockets[0].getsockname()) as proxy:
        proxy.become(Weather(answers_lost=True))
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"do it")
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(4)
        writer.close()
    assert heard == [b"do it"]

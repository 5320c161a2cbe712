"""Connections: how many there may be, what becomes of an unread body, and what is logged of bad requests."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from dtq.runtime import http_connections
from dtq.runtime.http_connections import Connections
from dtq.runtime.probes import serve_until, server
from tests.support.addresses import free_address
from tests.support.waiting import eventually

ANSWER_SECONDS: Final = 20.0
GET: Final = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nHost: api\r\n%bContent-Length: %d\r\n\r\n"
LARGE: Final = b"x" * 4_000_000


async def unread(request: Request) -> PlainTextResponse:
    """Answer at once, whatever the body."""
    return PlainTextResponse("no", status_code=413 if request.method == "POST" else 200)


Socket = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Serving:
    """A server, and connections to it."""

    def __init__(self, host: str, port: int, connections: Connections) -> None:
        self._address = host, port
        self.connections = connections

    async def connect(self) -> Socket:
        return await asyncio.open_connection(*self._address)

    async def status(self, *sent: bytes) -> int:
        reader, writer = await self.connect()
        writer.writelines(sent)
        await writer.drain()
        status = await status_of(reader)
        writer.close()
        return status


async def status_of(reader: asyncio.StreamReader) -> int:
    async with asyncio.timeout(ANSWER_SECONDS):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await reader.readexactly(int(length.split()[1]))
    return int(head.split()[1])


async def is_closed(reader: asyncio.StreamReader) -> bool:
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            return await reader.read(1) == b""
        except ConnectionError:
            return True


@asynccontextmanager
async def served() -> AsyncIterator[Serving]:
    host, _, port = free_address().rpartition(":")
    app = Starlette(routes=[Route("/", unread, methods=["GET", "POST"])])
    running, stop = server(app, (host, int(port)), grace_seconds=1), asyncio.Event()
    process = asyncio.create_task(serve_until(stop, running))
    assert isinstance(running.server_state, Connections)

    async def is_started() -> bool:
        return running.started

    await eventually(is_started, "the server listens")
    try:
        yield Serving(host, int(port), running.server_state)
    finally:
        stop.set()
        await process


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"], ids=["kept alive", "closed"])
async def test_a_client_that_sends_a_large_body_still_reads_why_it_is_refused(header: bytes) -> None:
    async with served() as serving:
        assert await serving.status(POST % (header, len(LARGE)), LARGE) == 413


async def test_a_connection_serves_the_next_request_after_an_unread_body() -> None:
    async with served() as serving:
        reader, writer = await serving.connect()
        writer.write(POST % (b"", len(LARGE)) + LARGE + GET)
        assert await status_of(reader) == 413
        assert await status_of(reader) == 200
        writer.close()


async def test_a_body_that_trickles_after_its_answer_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "UNREAD_SECONDS", 0.3)
    async with served() as serving:
        reader, writer = await serving.connect()
        writer.write(POST % (b"", 1_000) + b"x")
        assert await status_of(reader) == 413

        async def trickle() -> None:
            while not writer.is_closing():
                writer.write(b"x")
                await asyncio.sleep(0.05)

        trickling = asyncio.create_task(trickle())
        assert await is_closed(reader)
        trickling.cancel()
        writer.close()


async def test_a_body_that_never_ends_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_connections, "UNREAD_BYTES_MAX", 100_000)
    monkeypatch.setattr(http_connections, "UNREAD_SECONDS", 10 * ANSWER_SECONDS)
    async with served() as serving:
        reader, writer = await serving.connect()
        writer.write(POST % (b"", 10 * len(LARGE)))
        assert await status_of(reader) == 413
        writer.write(LARGE)
        assert await is_closed(reader)
        writer.close()


async def test_an_unread_body_takes_no_memory_after_its_answer() -> None:
    async with served() as serving:
        reader, writer = await serving.connect()
        writer.write(POST % (b"", len(LARGE)) + b"x" * 200_000)
        assert await status_of(reader) == 413
        (connection,) = serving.connections.connections
        assert isinstance(connection, http_connections.BoundedConnection)
        assert connection.has_unread_body()
        assert not connection.cycle.body
        writer.close()


async def test_connections_beyond_the_limit_are_told_and_others_are_served() -> None:
    async with served() as serving:
        serving.connections.limit = 4
        idle = [await serving.connect() for _ in range(2)]

        async def are_counted() -> bool:
            return len(serving.connections.connections) == 2

        await eventually(are_counted, "the server knows both")
        assert await serving.status(GET) == 503, "one address may hold half of them"
        for _, writer in idle:
            writer.close()

        async def is_served() -> bool:
            return await serving.status(GET) == 200

        await eventually(is_served, "there is room again")


def test_a_low_limit_of_descriptors_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert Connections().limit == 256 - http_connections.DESCRIPTORS_KEPT
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    assert Connections().limit == 1


async def test_an_expectation_that_cannot_be_met_is_refused() -> None:
    async with served() as serving:
        assert await serving.status(POST % (b"Expect: 200-ok\r\n", 1) + b"x") == 417
        assert await serving.status(GET) == 200


async def test_malformed_requests_of_one_address_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with served() as serving:
        for _ in range(5):
            assert await serving.status(b"hello\r\n\r\n") == 400
    assert sum("Invalid HTTP request" in record.getMessage() for record in caplog.records) == 1

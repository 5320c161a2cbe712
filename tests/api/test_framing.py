"""HTTP as bytes on a socket: what the server's parser and the reading of bodies make of it."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final

import pytest
import pytest_asyncio

from dtq.domain.limits import PAYLOAD_BYTES_MAX
from dtq.runtime import http_limits
from dtq_api import enqueue_route
from tests.api.world import ANY, Running, serving
from tests.support.addresses import BrokerVhost
from tests.support.waiting import eventually

ANSWER_SECONDS: Final = 20.0
BODY: Final = f'{{"type": "{ANY}", "payload": {{}}}}'.encode()
POST: Final = b"POST /enqueue HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"
CLOSE: Final = b"Connection: close\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over the socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        return str(json.loads(self.body)["type"].rpartition("/")[2])


class Socket:
    """A connection that sends bytes as they are told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def answer(self) -> Answer:
        async with asyncio.timeout(ANSWER_SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(ANSWER_SECONDS):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


class Server:
    """Where the API under test listens."""

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self._open: list[Socket] = []

    async def connect(self) -> Socket:
        self._open.append(Socket(*await asyncio.open_connection(self.host, self.port)))
        return self._open[-1]

    async def ask(self, *parts: bytes) -> Answer:
        socket = await self.connect()
        await socket.send(*parts)
        return await socket.answer()

    async def close(self) -> None:
        for socket in self._open:
            socket.writer.close()


@pytest_asyncio.fixture(loop_scope="session", scope="module")
async def listening(api: Running, shared_services: tuple[str, BrokerVhost]) -> AsyncIterator[tuple[str, int]]:
    """The socket of a whole API beside the shared one."""
    async with serving(*shared_services) as (other, host, port):

        async def declared() -> bool:
            return not await other.health.everything()

        # Its relay writes an event for each task that other tests left FAILED: not while these count events.
        async def noted() -> bool:
            due = "SELECT count(*) FROM tasks WHERE failed_at IS NOT NULL AND dead_lettered_at IS NULL"
            return bool(await api.sql.fetchval(due) == 0)

        await eventually(declared, "the topology is declared")
        await eventually(noted, "every dead letter is noted")
        yield host, port
    assert api.api.maintenance.publisher.broker.is_up


@pytest_asyncio.fixture(loop_scope="session")
async def server(listening: tuple[str, int]) -> AsyncIterator[Server]:
    one = Server(*listening)
    yield one
    await one.close()


def with_length(body: bytes, *headers: bytes) -> bytes:
    return POST + b"".join(headers) + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes) -> list[bytes]:
    head = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks), b"0\r\n\r\n"]


def body_of(size: int) -> bytes:
    head, tail = f'{{"type": "{ANY}", "payload": "'.encode(), b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


async def test_a_request_is_answered_and_the_connection_serves_the_next(server: Server) -> None:
    socket = await server.connect()
    for _ in range(2):
        await socket.send(with_length(BODY))
        answer = await socket.answer()
        assert answer.status == 201
        assert "server" not in answer.headers
        assert answer.headers["location"] == f"/tasks/{json.loads(answer.body)['id']}"


async def test_requests_sent_in_one_go_are_answered_in_order(server: Server) -> None:
    socket = await server.connect()
    await socket.send(with_length(BODY) + b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n" + with_length(b"no"))
    assert [(await socket.answer()).status for _ in range(3)] == [201, 200, 400]


async def test_a_body_in_chunks_is_put_together(server: Server) -> None:
    assert (await server.ask(*chunked(*(BODY[at : at + 1] for at in range(len(BODY)))))).status == 201


async def test_a_body_in_chunks_may_be_of_the_largest_size_and_not_a_byte_more(server: Server, api: Running) -> None:
    def chunks(size: int) -> list[bytes]:
        whole = body_of(size)
        return chunked(*(whole[at : at + 65_536] for at in range(0, size, 65_536)))

    assert (await server.ask(*chunks(PAYLOAD_BYTES_MAX))).status == 201
    before = await api.written()
    answer = await server.ask(*chunks(PAYLOAD_BYTES_MAX + 1))
    assert (answer.status, answer.code) == (413, "PayloadTooLarge")
    assert await api.written() == before


async def test_a_body_of_one_byte_too_many_is_refused_by_its_length_before_it_is_sent(server: Server) -> None:
    answer = await server.ask(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % (PAYLOAD_BYTES_MAX + 1))
    assert (answer.status, answer.code) == (413, "PayloadTooLarge")


async def test_a_client_that_sends_far_too_much_still_reads_why_it_is_refused(server: Server) -> None:
    socket = await server.connect()
    await socket.send(with_length(b"x" * 8 * PAYLOAD_BYTES_MAX))
    assert (await socket.answer()).status == 413
    await socket.send(with_length(BODY))
    assert (await socket.answer()).status == 201


async def test_a_body_that_does_not_arrive_in_time_is_given_up(
    server: Server, api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enqueue_route, "BODY_SECONDS", 0.2)
    before = await api.written()
    socket = await server.connect()
    await socket.send(POST + b"Content-Length: 500\r\n\r\n" + b"{")
    answer = await socket.answer()
    assert (answer.status, answer.code) == (408, "RequestTimeout")
    assert await socket.is_closed()
    assert await api.written() == before


async def test_a_client_that_goes_away_in_the_middle_of_its_body_leaves_nothing(server: Server, api: Running) -> None:
    before = await api.written()
    for _ in range(5):
        socket = await server.connect()
        await socket.send(with_length(BODY)[:-3])
        socket.writer.transport.abort()
    assert (await server.ask(b"GET /livez HTTP/1.1\r\nHost: api\r\n\r\n")).status == 200
    assert await api.written() == before


async def test_a_client_that_hears_100_continue_sends_its_body(server: Server) -> None:
    socket = await server.connect()
    await socket.send(POST + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(BODY))
    assert (await socket.answer()).status == 100
    await socket.send(BODY)
    assert (await socket.answer()).status == 201


async def test_no_body_at_all_is_told(server: Server) -> None:
    answer = await server.ask(POST + b"\r\n")
    assert (answer.status, answer.code) == (400, "InvalidBody")
    assert b"empty" in answer.body


async def test_an_old_client_is_served_too(server: Server) -> None:
    assert (await server.ask(b"GET /livez HTTP/1.0\r\n\r\n")).status == 200


def head(size: int) -> bytes:
    """A complete request head of that many bytes."""
    start, end = b"GET /livez HTTP/1.1\r\nHost: api\r\nX-Filler: ", b"\r\n\r\n"
    return start + b"x" * (size - len(start) - len(end)) + end


async def test_a_head_of_16_kib_is_read_and_a_larger_one_is_refused(server: Server) -> None:
    assert (await server.ask(head(http_limits.HEAD_BYTES_MAX))).status == 200
    socket = await server.connect()
    await socket.send(head(http_limits.HEAD_BYTES_MAX + 1))
    answer = await socket.answer()
    assert (answer.status, answer.body) == (431, b"The request's head is larger than 16384 bytes.")
    assert await socket.is_closed()


@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /livez HTTP/1.1\r\nX-Filler: ", *[b"x" * 4_096] * 6],
        [b"GET /livez HTTP/1.1\r\n", *[b"X-Filler: y\r\n" * 300] * 6],
        [b"GET /", *[b"x" * 4_096] * 6],
    ],
    ids=["one endless field", "endless fields", "an endless path"],
)
async def test_a_head_that_does_not_end_is_refused_while_it_arrives(server: Server, parts: list[bytes]) -> None:
    socket = await server.connect()
    await socket.send(*parts)
    assert (await socket.answer()).status == 431
    assert await socket.is_closed()


async def test_a_large_head_of_the_second_request_is_refused_too(server: Server) -> None:
    socket = await server.connect()
    await socket.send(head(10_000))
    assert (await socket.answer()).status == 200
    await socket.send(head(10_000))
    assert (await socket.answer()).status == 200
    await socket.send(head(20_000))
    assert (await socket.answer()).status == 431


@pytest.mark.parametrize("start", [b"", b"GET /livez HTT", b"GET /livez HTTP/1.1\r\nHost: a"])
async def test_a_head_that_does_not_arrive_in_time_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.2)
    socket = await server.connect()
    await socket.send(start)
    assert await socket.is_closed()


NO_HTTP = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "a length below 0": POST + b"Content-Length: -1\r\n\r\n",
    "a length of letters": POST + b"Content-Length: ten\r\n\r\n",
    "a chunk that is none": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "bytes in the path": b"GET /tasks/\xff HTTP/1.1\r\nHost: api\r\n\r\n",
    "a NUL in a field": b"GET / HTTP/1.1\r\nHost: api\r\nX-Y: a\0b\r\n\r\n",
    "a field without a name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("request_", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_no_http_is_refused_and_the_connection_closed(
    server: Server, api: Running, request_: bytes
) -> None:
    before = await api.written()
    socket = await server.connect()
    await socket.send(request_)
    assert (await socket.answer()).status == 400
    assert await socket.is_closed()
    assert await api.written() == before


@pytest.mark.parametrize(
    "path",
    [
        *("/tasks/..", "/tasks/../metrics", "/tasks/%2e%2e/metrics", "/tasks/%00", "/tasks/%zz", "/tasks/%ff"),
        *("//enqueue", "/./metrics", "/metrics%00", "/enqueue;x=1", "/tasks/a%2fb", "/" + "x" * 10_000),
    ],
)
async def test_a_path_that_plays_tricks_is_not_found(server: Server, path: str) -> None:
    answer = await server.ask(f"GET {path} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
    assert (answer.status, answer.code) == (404, "NotFound")


async def test_a_host_of_a_strangers_choice_is_never_repeated(server: Server) -> None:
    for path in ("/", "/enqueue/", "/tasks", "/openapi.json"):
        answer = await server.ask(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
        assert b"evil" not in answer.body + json.dumps(answer.headers).encode()


async def test_an_upgrade_is_not_taken(server: Server) -> None:
    upgrade = b"GET /livez HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert (await server.ask(upgrade)).status == 200


async def test_hundreds_of_clients_that_send_nothing_keep_nobody_out(server: Server) -> None:
    for _ in range(300):
        await server.connect()
    answers: list[Any] = await asyncio.gather(*(server.ask(with_length(BODY, CLOSE)) for _ in range(20)))
    assert {answer.status for answer in answers} == {201}

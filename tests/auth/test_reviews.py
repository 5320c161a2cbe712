"""An API server that answers nonsense, too slowly or not at all is an outage: bounded, 503, never a bug."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from dtq.domain.errors import Unavailable
from dtq.runtime.metrics import ApiMetrics
from dtq_api.auth.policy import Caller
from dtq_api.auth.token_review_client import REVIEW_SECONDS, TokenReviewClient
from hack.cluster.pki import Identity, Pki

GOOD = (
    b'{"kind": "TokenReview", "status": {"authenticated": true, "audiences": ["dtq"],'
    b' "user": {"username": "system:serviceaccount:shop:web", "groups": ["system:serviceaccounts"]}}}'
)
NEVER = b""


@pytest.fixture(scope="module")
def mount(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a mounted service account, with the key of a server that it trusts."""
    folder = tmp_path_factory.mktemp("mount")
    pki = Pki(folder)
    pki.authority("ca")
    pki.leaf("server", Identity(user="server", addresses=("127.0.0.1",)))
    (folder / "token").write_text("ours\n")
    return folder


@asynccontextmanager
async def answering(mount: Path, answer: bytes) -> AsyncIterator[tuple[TokenReviewClient, CollectorRegistry]]:
    """What asks a server that answers each request with these bytes; with NEVER, it keeps silent."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(mount / "server.crt", mount / "server.key")
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answer is NEVER:
            await over.wait()
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    registry = CollectorRegistry()
    reviews = TokenReviewClient(f"https://127.0.0.1:{port}", mount, audience="dtq", metrics=ApiMetrics(registry))
    try:
        yield reviews, registry
    finally:
        over.set()
        await reviews.close()
        server.close()
        await server.wait_closed()


def http(body: bytes, status: str = "201 Created") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


async def test_the_server_of_these_tests_can_say_yes(mount: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with answering(mount, http(GOOD)) as (reviews, registry):
        verdict = await reviews.review("a.b.c")
        assert isinstance(verdict, Caller)
        assert verdict.name == "system:serviceaccount:shop:web"
        assert registry.get_sample_value("dq_token_reviews_total", {"result": "good"}) == 1
    assert "a.b.c" not in caplog.text, "not even a debug line holds a token"


@pytest.mark.parametrize(
    "answer",
    [
        http(b""),
        http(b"<html>"),
        http(b"[]"),
        http(b"{}"),
        http(b'{"status": null}'),
        http(b'{"status": {"authenticated": "yes"}}'),
        http(b'{"status": {"authenticated": true, "user": {"username": 1}}}'),
        http(b"{}", "403 Forbidden"),
        http(b"{}", "401 Unauthorized"),
        http(b"{}", "429 Too Many Requests"),
        http(b"{}", "500 Internal Server Error"),
        b"HTTP/1.1 201 Created\r\nContent-Length: 99\r\n\r\n{",
        b"SSH-2.0-nonsense\r\n",
        NEVER,
    ],
)
async def test_what_is_no_verdict_is_an_outage_told_in_time(mount: Path, answer: bytes) -> None:
    async with answering(mount, answer) as (reviews, registry):
        started = time.monotonic()
        with pytest.raises(Unavailable, match="try again") as caught:
            await reviews.review("a.b.c")
        assert time.monotonic() - started < REVIEW_SECONDS + 3
        assert caught.value.retry_after_seconds > 0
        assert "ours" not in str(caught.value)
        assert registry.get_sample_value("dq_token_reviews_total", {"result": "unavailable"}) == 1


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (b'{"authenticated": false, "error": "invalid"}', "refuses the token"),
        (GOOD.replace(b'["dtq"]', b"[]")[len(b'{"kind": "TokenReview", "status": ') : -1], "another audience"),
        (GOOD.replace(b'["dtq"]', b'["other"]')[len(b'{"kind": "TokenReview", "status": ') : -1], "another audience"),
        (b'{"authenticated": true, "audiences": ["dtq"], "user": {"username": "jane"}}', "not that of a Service"),
        (b'{"authenticated": true, "audiences": ["dtq"], "user": {"username": "token:all"}}', "not that of a Service"),
        (b'{"authenticated": true, "audiences": ["dtq"]}', "not that of a Service"),
    ],
)
async def test_only_a_service_account_for_our_audience_is_a_caller(mount: Path, status: bytes, told: str) -> None:
    async with answering(mount, http(b'{"status": ' + status + b"}")) as (reviews, _):
        verdict = await reviews.review("a.b.c")
        assert isinstance(verdict, str)
        assert told in verdict


async def test_after_an_outage_nobody_waits_for_the_next_one(mount: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dtq_api.auth.token_review_client.PAUSE_SECONDS", 60.0)
    async with answering(mount, NEVER) as (reviews, _):
        with pytest.raises(Unavailable):
            await reviews.review("a.b.c")
        started = time.monotonic()
        with pytest.raises(Unavailable):
            await reviews.review("d.e.f")
        assert time.monotonic() - started < REVIEW_SECONDS / 2

"""The HTTP server of every process: what it costs without requests, and the `Date` header of its answers."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from dtq.runtime import http_connections
from dtq.runtime.loops import wait
from dtq.runtime.probes import probe_app, serve_until, server

IDLE_SECONDS = 0.5


@pytest.mark.asyncio(loop_scope="function")  # other tests' tasks set timers on theirs
async def test_an_idle_server_sets_no_timer_and_ends_when_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, stop, port = asyncio.get_running_loop(), asyncio.Event(), _free_port()
    serving = asyncio.create_task(_serve(stop, port))
    assert b"200 OK" in await _answer(port)
    timers: list[float] = []
    call_at = loop.call_at

    def noted(when: float, *args: Any, **how: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **how)

    monkeypatch.setattr(loop, "call_at", noted)
    await wait(asyncio.Event(), IDLE_SECONDS)
    assert len(timers) == 1, "the timer of this test"
    stop.set()
    async with asyncio.timeout(5):
        await serving


async def test_every_answer_has_the_time_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, port, now = asyncio.Event(), _free_port(), [0.0]
    monkeypatch.setattr(http_connections, "time", SimpleNamespace(time=lambda: now[0]))
    serving = asyncio.create_task(_serve(stop, port))
    for now[0], date in ((0.9, b"Thu, 01 Jan 1970 00:00:00 GMT"), (86401.0, b"Fri, 02 Jan 1970 00:00:01 GMT")):
        assert b"\r\ndate: " + date + b"\r\n" in await _answer(port)
    stop.set()
    await serving


async def _serve(stop: asyncio.Event, port: int) -> None:
    await serve_until(stop, server(probe_app(CollectorRegistry()), ("127.0.0.1", port), grace_seconds=1))


async def _answer(port: int) -> bytes:
    """Return the answer to a request; the server may still be starting."""
    while True:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await wait(asyncio.Event(), 0.01)
            continue
        writer.write(b"GET /livez HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return answer


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

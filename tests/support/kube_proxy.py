"""A proxy in front of a real API server that answers in its place, delays it, cuts it and silences its watches.

What it passes on is unchanged.
"""

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import yaml
from aiohttp import web

from dtq.runtime.loops import wait
from tests.support.kube_api import KubeApi

HOP_HEADERS: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})
BYTES_MAX: Final = 16 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Fault:
    """What happens to requests whose method and path match.

    Attributes:
        match: a pattern for "METHOD /path?query".
        status: answered in the API server's place.
        text: goes with it, in the place of a Status.
        headers: go with it.
        delay_seconds: pause before the request is passed on.
        cut: `before` the API server hears of it, or `after`, so that only its answer is lost.
        times: how many requests it strikes; None means all.
        then: called for each request it strikes, once the API server has answered.
    """

    match: str
    status: int | None = None
    text: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    delay_seconds: float = 0.0
    cut: str = ""
    times: int | None = None
    then: Callable[[], object] | None = None
    struck: int = 0
    hit: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a request has been struck."""


class KubeProxy:
    """Listens on the loopback and speaks to the API server as its administrator."""

    def __init__(self, kube: KubeApi, folder: Path) -> None:
        self._kube = kube
        self.kubeconfig = folder / "proxy.kubeconfig"
        self.requests: list[str] = []
        """Every request, as "METHOD /path?query"."""
        self._faults: list[Fault] = []
        self._watches: set[asyncio.Event] = set()
        self._silent = False
        self._told: list[bytes] = []

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            base_url=self._kube.server,
            connector=aiohttp.TCPConnector(ssl=self._kube.tls, limit=0),
            timeout=aiohttp.ClientTimeout(total=None),
            auto_decompress=False,
        )
        app = web.Application(client_max_size=BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._serve)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port = self._runner.addresses[0][1]
        config: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "proxy", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
            "users": [{"name": "nobody", "user": {}}],
            "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "nobody"}}],
            "current-context": "proxy",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cut_watches()
        await self._runner.cleanup()
        await self._session.close()

    def strike(self, match: str, **fault: Any) -> Fault:
        """Inject a fault into matching requests from now on."""
        made = Fault(match=match, **fault)
        self._faults.append(made)
        return made

    def clear(self) -> None:
        """End every fault except a silence."""
        self._faults.clear()

    def cut_watches(self) -> None:
        """Cut every open watch, in the middle of a line."""
        for watch in self._watches:
            watch.set()

    def silence_watches(self) -> None:
        """Silence all watches, open and new: they send nothing, not even bookmarks."""
        self._silent = True

    def say_to_watches(self, line: bytes) -> None:
        """Send one more line on each watch, at its next chunk or cut."""
        self._told.append(line)
        self.cut_watches()

    def count(self, match: str) -> int:
        """How many requests matched."""
        return sum(bool(re.search(match, request)) for request in self.requests)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        line = f"{request.method} {request.path_qs}"
        self.requests.append(line)
        fault = next(
            (fault for fault in self._faults if re.search(fault.match, line) and fault.struck != fault.times),
            Fault(match=""),
        )
        fault.struck += 1
        fault.hit.set()
        if fault.delay_seconds:
            await wait(asyncio.Event(), fault.delay_seconds)
        if fault.status is not None and fault.text is not None:
            return web.Response(text=fault.text, status=fault.status, headers=fault.headers)
        if fault.status is not None:
            status = {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "code": fault.status,
                "message": "told",
            }
            return web.json_response(status, status=fault.status, headers=fault.headers)
        if fault.cut == "before":
            return _hang_up(request)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_HEADERS}
        body = await request.read() or None
        async with self._session.request(request.method, request.path_qs, data=body, headers=headers) as answer:
            if request.query.get("watch") == "true":
                return await self._stream(request, answer)
            content = await answer.read()
        if fault.then is not None:
            fault.then()
        if fault.cut == "after":
            return _hang_up(request)
        return web.Response(body=content, status=answer.status, headers=_kept(answer), content_type=None)

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        out = web.StreamResponse(status=answer.status, headers=_kept(answer))
        await out.prepare(request)
        cut = asyncio.Event()
        self._watches.add(cut)
        ending = asyncio.create_task(cut.wait())
        try:
            while True:
                reading = asyncio.create_task(answer.content.readany())
                await asyncio.wait((reading, ending), return_when=asyncio.FIRST_COMPLETED)
                if ending.done():
                    reading.cancel()
                    for line in self._told:
                        await out.write(line + b"\n")
                    return out if self._told else _hang_up(request)
                chunk = reading.result()
                if not chunk:
                    return out
                if not self._silent:
                    await out.write(chunk)
        finally:
            ending.cancel()
            self._watches.discard(cut)


def _kept(answer: aiohttp.ClientResponse) -> dict[str, str]:
    kept = {name: value for name, value in answer.headers.items() if name.lower() not in HOP_HEADERS}
    if "Content-Encoding" in answer.headers:
        kept["Content-Encoding"] = answer.headers["Content-Encoding"]
    return kept


def _hang_up(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:  # else the other side was quicker
        request.transport.abort()
    return web.Response()

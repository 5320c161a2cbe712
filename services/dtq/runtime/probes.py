"""The HTTP server of a process that handles its own signals, and the probe routes of processes without an API.

Callers pass a function that says what is wrong.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from dtq.runtime.http_connections import BoundedConnection, Connections

Health = Callable[[], Awaitable[dict[str, str]]]
"""Returns what is wrong, by part; empty if the process is healthy."""


class Server(uvicorn.Server):
    """A server that sleeps until it is used, and leaves signals to the process.

    The composition root decides the order of shutdown. uvicorn's own server wakes up ten times a second to look whether
    it should exit, and to set the time of the `Date` header.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = Connections()
        self._ending = asyncio.Event()

    def end(self) -> None:
        """Finish the requests under way, then stop serving."""
        self.should_exit = True
        self._ending.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals."""
        yield

    async def main_loop(self) -> None:
        """Wait for `end`."""
        await self._ending.wait()


def server(app: ASGIApp, address: tuple[str, int], *, grace_seconds: int, tls: ssl.SSLContext | None = None) -> Server:
    """Return a server for `app`, over TLS if it is given; run it with `serve_until`."""
    config = uvicorn.Config(
        app,
        host=address[0],
        port=address[1],
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # a client must not choose the address that its limits are counted by
        lifespan="off",
        timeout_graceful_shutdown=grace_seconds,
        http=BoundedConnection,
        ws="none",
        ssl_context_factory=None if tls is None else lambda _config, _default: tls,
    )
    return Server(config)


async def serve_until(stop: asyncio.Event, serving: Server) -> None:
    """Serve until `stop`, then finish the requests under way.

    Raises:
        OSError: the address is in use.
    """

    async def end() -> None:
        await stop.wait()
        serving.end()

    watcher = asyncio.create_task(end())
    try:
        await serving.serve()
    except SystemExit as error:  # uvicorn reports a failed bind this way
        raise OSError(f"cannot listen on {serving.config.host}:{serving.config.port}: is the port taken?") from error
    finally:
        watcher.cancel()


def metrics_response(registry: CollectorRegistry) -> Response:
    """Return the metrics of a registry in the exposition format."""
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def no_trouble() -> dict[str, str]:
    """Return that nothing is wrong."""
    return {}


def probe_app(registry: CollectorRegistry, *, ready: Health = no_trouble, alive: Health = no_trouble) -> Starlette:
    """Return an app with `/readyz`, `/livez`, `/healthz` and `/metrics`."""

    async def readyz(_: Request) -> Response:
        return health_response(await ready())

    async def livez(_: Request) -> Response:
        return health_response(await alive())

    async def metrics(_: Request) -> Response:
        return metrics_response(registry)

    return Starlette(
        routes=[
            Route("/healthz", readyz),
            Route("/readyz", readyz),
            Route("/livez", livez),
            Route("/metrics", metrics),
        ]
    )


def health_response(wrong: dict[str, str], *, detailed: bool = True) -> JSONResponse:
    """Return 200 `{"status": "ok"}`, or 503 with what is wrong: by part the reason, or `down` only."""
    if not wrong:
        return JSONResponse({"status": "ok"})
    told = wrong if detailed else dict.fromkeys(wrong, "down")
    return JSONResponse({"status": "degraded", **told}, status_code=503)

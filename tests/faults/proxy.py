"""A TCP proxy in front of one server that degrades the network: slow, dead, cut, half dead, dripping.

It passes bytes on unchanged, and no fault remains after it was cleared.
"""

import asyncio
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Self

from dtq.runtime.loops import wait

CHUNK_BYTES: Final = 65_536
"""Most bytes passed on at a time."""
DRIP_SECONDS: Final = 0.05
"""How often a dripping link lets something through, in seconds."""
CONNECT_SECONDS: Final = 5.0
"""Longest wait for the server behind the proxy, in seconds."""
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How the link behaves.

    Attributes:
        latency_seconds: how late each piece arrives, in each direction.
        blackhole: nothing arrives and no error is reported; what was sent arrives afterwards, as with TCP.
        bytes_per_second: the limit in each direction; None means no limit.
        answers_lost: questions arrive, but the connection is cut before an answer does: the outcome is in doubt.
    """

    latency_seconds: float = 0.0
    blackhole: bool = False
    bytes_per_second: int | None = None
    answers_lost: bool = False


FAIR: Final = Weather()


class Proxy:
    """Listens on a port of this machine and passes everything on to `host:port`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._weather = FAIR
        self._changed = asyncio.Event()

    @property
    def port(self) -> int:
        """Where the proxy listens."""
        assert self._server is not None, "enter the proxy first"
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._links)

    @property
    def weather(self) -> Weather:
        """How the link behaves now."""
        return self._weather

    def become(self, weather: Weather) -> None:
        """Change how the link behaves, for open connections and for new ones."""
        self._weather = weather
        self._changed.set()
        self._changed = asyncio.Event()

    def reset(self) -> int:
        """Cut every open connection with an RST on both sides; return how many there were."""
        for link in list(self._links):
            link.reset()
        return len(self._links)

    def half_close(self) -> int:
        """Let the server see every connection end while its client sees nothing, ever; return how many there were."""
        for link in list(self._links):
            link.half_close()
        return len(self._links)

    async def __aenter__(self) -> Self:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cut everything and stop listening."""
        assert self._server is not None
        self._server.close()
        self.reset()
        self.become(FAIR)
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            # Cancelled by our own end only; asyncio's server would report it as a crash.
            with suppress(asyncio.CancelledError):
                await link.serve(self._target)
        finally:
            self._links.discard(link)
            self._serving.discard(task)

    async def _pass(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        """Pass one piece on, as the weather has it at this moment."""
        while self._weather.blackhole:
            await self._changed.wait()
        if self._weather.latency_seconds:
            await wait(self._changed, self._weather.latency_seconds)
        while data:
            rate = self._weather.bytes_per_second
            size = len(data) if rate is None else max(1, int(rate * DRIP_SECONDS))
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if data:
                await wait(self._changed, DRIP_SECONDS)


class _Link:
    """One connection: two sockets and what pumps between them."""

    def __init__(self, proxy: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._deaf = False

    async def serve(self, target: tuple[str, int]) -> None:
        """Connect to the server and pump until both sides have ended."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                self._server = await asyncio.open_connection(*target)
        except OSError:
            _abort(self._client[1])
            return
        try:
            upwards = self._pump(self._client[0], self._server[1])
            downwards = self._pump(self._server[0], self._client[1], towards_client=True)
            await asyncio.gather(upwards, downwards)
        finally:
            _abort(self._client[1])
            _abort(self._server[1])

    def reset(self) -> None:
        """Cut both sides."""
        for side in (self._client, self._server):
            if side is not None:
                _abort(side[1])

    def half_close(self) -> None:
        """Cut the server's side only: the client's stays open and silent until the client gives up."""
        self._deaf = True
        if self._server is not None:
            _abort(self._server[1])

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, towards_client: bool = False
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                if self._deaf:
                    continue
                if towards_client and self._proxy.weather.answers_lost:
                    self.reset()
                    return
                # A server that was cut while data waited must not keep us from hearing the client's end.
                with suppress(OSError):
                    await self._proxy._pass(data, writer)
        if not (towards_client and self._deaf):
            with suppress(OSError):
                writer.write_eof()


def _abort(writer: asyncio.StreamWriter) -> None:
    """End a connection at once, by RST: the peer is told that it is over, not that it ended well."""
    link = writer.get_extra_info("socket")
    if link is not None and not writer.transport.is_closing():
        with suppress(OSError):
            link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

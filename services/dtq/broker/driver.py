"""The driver's connection, with a reader of ours between it and the socket; see `frames`.

Our reader sees every byte first. A channel with a listener gets its frames from it; the driver does everything else:
handshake, channels, heartbeats and errors.
"""

import asyncio
from typing import Any, Final

import aiormq
from aiormq.abc import AbstractChannel
from aiormq.connection import TransportFactory
from aiormq.exceptions import AMQPConnectionError
from yarl import URL

from dtq.broker.frames import HEARTBEAT_FRAME, FrameReader, Listener

ALIVE_SECONDS: Final = 1.0
"""How often the driver is told that bytes arrive, in seconds: it takes a connection without frames for dead, and while
deliveries flow the broker sends no heartbeats."""


class Connection(aiormq.Connection):
    """One connection.

    Args:
        takes_frames: whether listeners get frames; otherwise the driver reads everything itself.
    """

    def __init__(self, url: URL | str, *, takes_frames: bool = True) -> None:
        self._frames = FrameReader()
        self._transport = _Transport(self._frames)
        self._takes_frames = takes_frames
        super().__init__(url, transport_factory=self._transport)

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has stopped reading from us: a memory or disk alarm."""
        return self._frames.is_blocked

    def listen(self, channel: AbstractChannel, listener: Listener) -> bool:
        """Give the frames of a channel to a listener until the channel closes; return whether it gets any."""
        if not self._takes_frames:
            return False
        self._frames.listeners[channel.number] = listener

        def forget(_: object) -> None:
            if self._frames.listeners.get(channel.number) is listener:
                del self._frames.listeners[channel.number]

        channel.closing.add_done_callback(forget)
        return True

    async def write(self, data: bytes) -> None:
        """Write whole frames behind what was written before, and wait while the socket takes no more.

        Raises:
            ConnectionError: the connection is closed.
        """
        writer = self._transport.writer
        if writer is None or writer.is_closing():
            raise ConnectionError("the connection is closed")
        writer.write(data)
        await writer.drain()


class _Transport(TransportFactory):
    def __init__(self, frames: FrameReader) -> None:
        self._frames = frames
        self.writer: asyncio.StreamWriter | None = None

    async def create(self, url: URL, **how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = how.pop("ssl_context_provider")
        context = await provider.get_context() if url.scheme == "amqps" else None
        assert url.host is not None
        assert url.port is not None
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        protocol = _Protocol(self._frames, reader, loop)
        try:
            transport, _ = await loop.create_connection(lambda: protocol, url.host, url.port, ssl=context, **how)
        except OSError as error:
            raise AMQPConnectionError(*error.args) from error
        self.writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        return reader, self.writer


class _Protocol(asyncio.StreamReaderProtocol):
    def __init__(self, frames: FrameReader, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(reader, loop=loop)
        self._frames = frames
        self._clock = loop.time
        self._told_at = loop.time()

    def data_received(self, data: bytes) -> None:
        passed = self._frames.feed(data)
        now = self._clock()
        if not passed and now - self._told_at > ALIVE_SECONDS:
            passed = HEARTBEAT_FRAME
        if passed:
            self._told_at = now
            super().data_received(passed)

"""A small HTTP client: one connection, opened again when the server has closed it.

It costs little CPU time, which the attackers share with the attacked.
"""

import asyncio
import json
import time
from contextlib import suppress
from typing import Any, Final

ANSWER_SECONDS: Final = 40.0
"""Longest wait for an answer, in seconds: more than the API's own longest."""
IDLE_SECONDS: Final = 2.0
"""How long an idle connection is used again, in seconds: less than the server keeps it open."""
NO_ANSWER: Final = "no answer"
"""What counts instead of a status when the connection ends, or the time."""


class Client:
    """One connection of a caller.

    Args:
        token: the caller's bearer token.
    """

    def __init__(self, host: str, port: int, token: str = "") -> None:
        self.host = host
        self.port = port
        self._token = token
        self._idle_since = float("inf")
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def enqueue(self, **body: Any) -> str:
        """Enqueue a task; return the status."""
        return await self.request("POST", "/enqueue", json.dumps(body).encode())

    async def request(self, method: str, path: str, body: bytes = b"", *, token: str | None = None) -> str:
        """Return the status of a request."""
        head = self.head(method, path, len(body), token=token)
        return await self.exchange(head + body)

    def head(self, method: str, path: str, length: int, *, token: str | None = None) -> bytes:
        """Return the head of a request."""
        return (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {self._token if token is None else token}\r\nContent-Length: {length}\r\n\r\n"
        ).encode()

    async def exchange(self, sent: bytes) -> str:
        """Send bytes; return the status of the answer."""
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                writer = await self.send(sent)
                with suppress(ConnectionError):  # the server may answer, and close, before it has read everything
                    await writer.drain()
                return await self.answer()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return NO_ANSWER

    async def send(self, sent: bytes) -> asyncio.StreamWriter:
        """Write bytes to the connection."""
        if time.monotonic() > self._idle_since + IDLE_SECONDS:
            self.close()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self.host, self.port)
            self._idle_since = float("inf")  # in use
        self._streams[1].write(sent)
        return self._streams[1]

    async def answer(self) -> str:
        """Read one answer to its end; return its status."""
        assert self._streams is not None
        reader = self._streams[0]
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))
        self._idle_since = time.monotonic()
        if b"connection: close" in head:
            self.close()
        return head.split(b" ", 2)[1].decode()

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

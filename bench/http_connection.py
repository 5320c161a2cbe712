"""A client of HTTP/1.1 that costs little: one connection, one request at a time, JSON answers with a length."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

_END_OF_HEADERS: Final = b"\r\n\r\n"
_LENGTH: Final = b"content-length:"


class HttpConnection(asyncio.Protocol):
    """One connection that is kept open."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    @classmethod
    async def open(cls, url: str) -> "HttpConnection":
        """Connect to the server of a base URL."""
        target = urlsplit(url)
        _, protocol = await asyncio.get_running_loop().create_connection(
            lambda: cls(target.netloc), target.hostname or "", target.port or 80
        )
        return protocol

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request; return the status and the body of its answer."""
        assert self._transport is not None
        assert self._answer is None, "one request at a time"
        answer: asyncio.Future[tuple[int, bytes]] = asyncio.get_running_loop().create_future()
        self._answer = answer
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        return await answer

    def close(self) -> None:
        """Disconnect."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """End the request once its answer is complete."""
        self._received += data
        end = self._received.find(_END_OF_HEADERS)
        if end < 0 or self._answer is None:
            return
        headers = bytes(self._received[:end]).lower()
        _, _, rest = headers.partition(_LENGTH)
        size = end + len(_END_OF_HEADERS) + int(rest.split(b"\r\n", 1)[0])
        if len(self._received) < size:
            return
        body = bytes(self._received[end + len(_END_OF_HEADERS) : size])
        del self._received[:size]
        answer, self._answer = self._answer, None
        answer.set_result((int(headers[9:12]), body))

    def connection_lost(self, error: Exception | None) -> None:
        """Fail the request that waits."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error or ConnectionResetError("the server closed the connection"))

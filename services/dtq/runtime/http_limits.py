"""Limits of HTTP request heads: bounds their size and the time to receive them, which uvicorn does not.

A refused request is answered as uvicorn answers invalid HTTP: in plain text, and the connection is closed. Bodies are
not limited here: the routes do that.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES_MAX: Final = 16_384
"""Largest request head, in bytes: the most that proxies in front of the API send."""
HEAD_SECONDS: Final = 10.0
"""Longest time to receive a head, in seconds, including the wait for a connection's first byte."""
_REQUEST_LINE: Final = len(b"  HTTP/1.1\r\n")
_FIELD: Final = len(b": \r\n")
_END: Final = len(b"\r\n")


def plain_response(status: int, text: str) -> bytes:
    """Return a response in plain text after which the connection is closed."""
    head = b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
    return STATUS_LINE[status] + head % len(text) + text.encode()


class RequestHeaderLimits(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _is_open = False
    _is_idle = True
    _begun = 0
    _open_bytes = 0
    refusal: bytes | None = None
    """The response to a request that the parser stopped at, if it is not 400."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Start to wait for the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that grows without bound."""
        was_open, was_idle, begun = self._is_open, self._is_idle, self._begun
        super().data_received(data)
        # Count only data that belongs entirely to this head, not to a body or to another head.
        only_head = (was_open and self._begun == begun) or (was_idle and self._begun == begun + 1)
        if self._is_open and not self.transport.is_closing():
            self._start_timer()  # only now: most heads arrive whole
        if self._is_open and only_head:
            self._open_bytes += len(data)
            if self._open_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """Start to count a head."""
        super().on_message_begin()
        self._begun += 1
        self._is_idle, self._is_open, self._open_bytes = False, True, 0

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; otherwise start the request."""
        self._stop_timer()
        fields = sum(len(name) + len(value) + _FIELD for name, value in self.headers)
        size = len(self.parser.get_method()) + len(self.url) + _REQUEST_LINE + fields + _END
        if size > HEAD_BYTES_MAX:
            self._open_bytes = size
            raise ValueError("the head is too large")  # the parser stops, and uvicorn answers by send_400_response
        self._is_open = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Expect the next head."""
        self._is_idle = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer invalid HTTP with 400, a head that is too large with 431, and other refusals as they say."""
        if self._open_bytes > HEAD_BYTES_MAX:
            self.refusal = plain_response(431, f"The request's head is larger than {HEAD_BYTES_MAX} bytes.")
        if self.refusal is None:
            super().send_400_response(msg)
            return
        self.transport.write(self.refusal)
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

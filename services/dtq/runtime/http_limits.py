"""Request heads: uvicorn's parser with a bound on how large a head may be and how long it may take.

Owns those two bounds, which uvicorn lacks. What it refuses is answered as uvicorn answers what is no HTTP: by
plain text, and the connection is closed. Must never look at a body: the routes bound theirs.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

HEAD_BYTES_MAX: Final = 16_384
"""Largest request head, in bytes: what proxies in front of us send at the most."""
HEAD_SECONDS: Final = 10.0
"""Longest time for a head to arrive, in seconds, the wait for a connection's first byte included."""
_REQUEST_LINE: Final = len(b"  HTTP/1.1\r\n")
_FIELD: Final = len(b": \r\n")
_END: Final = len(b"\r\n")
_TOO_LARGE: Final = (
    STATUS_LINE[431] + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b"
)


class RequestHeaderLimits(HttpToolsProtocol):
    """One connection."""

    _timer: asyncio.TimerHandle | None = None
    _is_open = False
    _is_idle = True
    _begun = 0
    _open_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for nothing more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; refuse a head that grows without an end."""
        was_open, was_idle, begun = self._is_open, self._is_idle, self._begun
        super().data_received(data)
        # Counted is only what belongs to the head as a whole: nothing of a body or of another head.
        only_head = (was_open and self._begun == begun) or (was_idle and self._begun == begun + 1)
        if self._is_open and only_head:
            self._open_bytes += len(data)
            if self._open_bytes > HEAD_BYTES_MAX and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._begun += 1
        self._is_idle, self._is_open, self._open_bytes = False, True, 0
        self._start_timer()

    def on_headers_complete(self) -> None:
        """Refuse a head that is too large; otherwise the request begins."""
        self._stop_timer()
        fields = sum(len(name) + len(value) + _FIELD for name, value in self.headers)
        size = len(self.parser.get_method()) + len(self.url) + _REQUEST_LINE + fields + _END
        if size > HEAD_BYTES_MAX:
            self._open_bytes = size
            raise ValueError("the head is too large")  # the parser stops, and uvicorn answers by send_400_response
        self._is_open = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """Whatever comes next begins with a head."""
        self._is_idle = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP with 400, and a head that is too large with 431."""
        if self._open_bytes <= HEAD_BYTES_MAX:
            super().send_400_response(msg)
            return
        text = f"The request's head is larger than {HEAD_BYTES_MAX} bytes.".encode()
        self.transport.write(_TOO_LARGE % (len(text), text))
        self.transport.close()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

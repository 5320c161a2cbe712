"""Limits of HTTP connections: how many a server accepts, and how long a client may go on sending an unread body.

A client that is answered before it has sent its whole body is still read for a bounded time, since a connection that is
closed at once loses the answer on its way.
"""

import asyncio
import logging
import resource
import time
from collections import Counter
from email.utils import formatdate
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle
from uvicorn.server import ServerState

from dtq.runtime.http_limits import RequestHeaderLimits, plain_response
from dtq.runtime.logs import RareWarnings

CONNECTIONS_MAX: Final = 12_000
"""Most connections of a server: 10,000 waiting clients, and others beside them."""
DESCRIPTORS_KEPT: Final = 128
"""File descriptors kept for Postgres, RabbitMQ, child processes and files when the process's limit is low."""
ADDRESS_SHARE: Final = 0.5
"""The share of all connections that one address may hold: an ingress holds many, but leaves room for probes."""
UNREAD_SECONDS: Final = 5.0
"""How long the rest of a body is read and dropped after its request was answered, in seconds."""
UNREAD_BYTES_MAX: Final = 16_777_216
"""How much of it is read, in bytes: sixteen times the largest body."""
_EVERY_RESPONSE: Final = ((b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff"))
_FULL: Final = "The server has as many connections as it can hold: try again later."


class Connections(ServerState):
    """The state of a server: its connections, and the headers of every response.

    It makes the `Date` header when a response needs it; uvicorn wakes up once a second to do so.
    """

    _second = -1
    _headers: list[tuple[bytes, bytes]]

    def __init__(self) -> None:
        super().__init__()
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.limit = max(1, min(CONNECTIONS_MAX, descriptors - DESCRIPTORS_KEPT))
        self._by_address: Counter[str] = Counter()
        self.warnings = RareWarnings()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """The headers of every response."""
        if (now := int(time.time())) != self._second:
            self._second, self._headers = now, [(b"date", formatdate(now, usegmt=True).encode()), *_EVERY_RESPONSE]
        return self._headers

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        self._headers = headers

    def is_admitted(self, address: str) -> bool:
        """Count a new connection; return False, and do not count it, if there are too many."""
        if len(self.connections) >= self.limit or self._by_address[address] >= max(1, self.limit * ADDRESS_SHARE):
            return False
        self._by_address[address] += 1
        return True

    def gone(self, address: str) -> None:
        """Stop counting a connection."""
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]


class BoundedConnection(RequestHeaderLimits):
    """One connection."""

    server_state: Connections
    _address: str | None = None
    _closer: asyncio.TimerHandle | None = None
    _unread_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Accept the connection, or answer 503."""
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self.server_state.is_admitted(address):
            transport.write(plain_response(503, _FULL))
            transport.close()
            return
        self._address = address
        self.logger = cast("logging.Logger", _SourceLogger(self.logger, self.server_state, address))
        super().connection_made(cast("asyncio.Transport", _LingeringTransport(transport, self)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting the connection."""
        if self._address is None:
            return
        self.server_state.gone(self._address)
        self._stop_closer()
        self._drop_body()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse; close the connection when too much of an unread body arrives."""
        if self._address is None:
            return
        if self._closer is not None:
            self._unread_bytes += len(data)
            if self._unread_bytes > UNREAD_BYTES_MAX:
                self.abandon()
                return
        super().data_received(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Refuse expectations that no server can meet: RFC 9110, section 10.1.1."""
        super().on_header(name, value)
        if name.lower() == b"expect" and value.lower() != b"100-continue":
            self.refusal = plain_response(417, "The header Expect may only be 100-continue.")
            raise ValueError("unknown expectation")  # the parser stops, and uvicorn answers by send_400_response

    def on_response_complete(self) -> None:
        """Bound the rest of a body that the response did not wait for."""
        self._drop_body()
        super().on_response_complete()
        if self.has_unread_body():
            self.linger()

    def on_message_complete(self) -> None:
        """End the bound: the body has arrived."""
        super().on_message_complete()
        if self._closer is None:
            return
        self._stop_closer()
        if self.transport.is_closing():
            self.abandon()
        else:
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def has_unread_body(self) -> bool:
        """Return whether the request was answered before its whole body arrived."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and cycle.response_complete and cycle.more_body

    def linger(self) -> None:
        """Read and drop the rest of the body, for a bounded time."""
        if self._closer is None:
            self._unread_bytes = 0
            self.flow.resume_reading()
            self._closer = self.loop.call_later(UNREAD_SECONDS, self.abandon)

    def abandon(self) -> None:
        """Close the connection now."""
        self._stop_closer()
        cast("_LingeringTransport", self.transport).close_now()

    def _drop_body(self) -> None:
        """Release what has arrived of the body: the garbage collector frees a connection only after a while."""
        if (cycle := cast("RequestResponseCycle | None", self.cycle)) is not None:
            cycle.body.clear()

    def _stop_closer(self) -> None:
        if self._closer is not None:
            self._closer.cancel()
            self._closer = None


class _LingeringTransport:
    """A transport that closes only after the rest of an unread body, and writes a head together with its body."""

    def __init__(self, transport: asyncio.Transport, connection: BoundedConnection) -> None:
        self._transport = transport
        self._connection = connection
        self._is_closing = False
        self._held = b""

    def write(self, data: bytes) -> None:
        """Write with what is held, or hold until the next write or turn of the loop: uvicorn writes twice."""
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:
            self._held = data
            self._connection.loop.call_soon(self._flush)

    def _flush(self) -> None:
        if self._held:
            held, self._held = self._held, b""
            self._transport.write(held)

    def close(self) -> None:
        self._flush()
        self._is_closing = True
        if self._connection.has_unread_body():
            self._connection.linger()
        else:
            self._transport.close()

    def close_now(self) -> None:
        self._flush()
        self._is_closing = True
        self._transport.close()

    def is_closing(self) -> bool:
        return self._is_closing or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _SourceLogger(logging.LoggerAdapter[logging.Logger]):
    """Logs warnings about malformed requests once per address and minute."""

    def __init__(self, logger: logging.Logger, connections: Connections, address: str) -> None:
        super().__init__(logger)
        self._connections = connections
        self._address = address

    @property
    def level(self) -> int:
        return self.logger.level

    def warning(self, msg: object, *args: object, **kwargs: Any) -> None:
        if self._connections.warnings.is_due(self._address):
            super().warning(f"{msg} (address {self._address})", *args, **kwargs)

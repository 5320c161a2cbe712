"""A supervised connection to RabbitMQ for one purpose: connects, reconnects, and detects a blocked connection.

A connection is handed out only after `setup` has run, also after every reconnect.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import aiormq
import structlog
from aiormq.abc import AbstractConnection
from yarl import URL

from dtq.broker import pamqp_patch
from dtq.broker.driver import Connection
from dtq.domain.errors import Rejected, Unavailable
from dtq.runtime.loops import Retries, foreign_cancellation_as_error
from dtq.runtime.metrics import BrokerMetrics

CONNECT_SECONDS: Final = 5.0
"""Longest time to open a connection, in seconds."""
SETUP_SECONDS: Final = 30.0
"""Longest time to declare and subscribe on a new connection, in seconds: thousands of queues take a while."""
HEARTBEAT_SECONDS: Final = 10
"""Heartbeat, in seconds: RabbitMQ advises against less than 5; a dead peer is noticed within three heartbeats."""
CLOSE_SECONDS: Final = 2.0
"""Longest time to close a connection, in seconds."""

BROKER_ERRORS: Final = (aiormq.exceptions.AMQPError, OSError, TimeoutError, RuntimeError)
"""The errors of a broken connection; aiormq raises RuntimeError for a closed one."""

Url = str | Callable[[], str]
"""A broker's URL, or a function that returns the current URL: a password may be rotated while the process runs."""

pamqp_patch.install()

_log = structlog.get_logger(__name__)


@contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of a broken connection into `Unavailable`."""
    try:
        with foreign_cancellation_as_error():
            yield
    except BROKER_ERRORS as error:
        raise Unavailable(f"RabbitMQ does not answer: {type(error).__name__}") from error


class BrokerConnection:
    """Keeps one connection alive; run it as a task.

    Args:
        url: with the password; never logged.
        purpose: a name for logs, metrics and RabbitMQ's list of connections.
        setup: called with each new connection before the connection counts as up.
    """

    def __init__(
        self,
        url: Url,
        *,
        purpose: str,
        setup: Callable[[AbstractConnection], Awaitable[None]],
        metrics: BrokerMetrics,
    ) -> None:
        self._url = url
        self._purpose = purpose
        self._setup = setup
        self._metrics = metrics
        self._connection: Connection | None = None
        self._broken = asyncio.Event()
        self.up = asyncio.Event()
        """Set while the connection is set up and open."""

    @property
    def is_up(self) -> bool:
        """Whether the connection is set up and open."""
        return self.up.is_set() and self._connection is not None and not self._connection.is_closed

    @property
    def is_blocked(self) -> bool:
        """Whether the broker has stopped reading from us: a memory or disk alarm."""
        return self._connection is not None and self._connection.is_blocked

    def connection(self) -> AbstractConnection:
        """Return the connection.

        Raises:
            Unavailable: it is not up.
        """
        if not self.is_up or self._connection is None:
            raise Unavailable("RabbitMQ is not connected")
        return self._connection

    def invalidate(self, reason: str) -> None:
        """Close the connection: a new one is opened and set up."""
        if self.up.is_set():
            _log.warning("broker connection reset", purpose=self._purpose, reason=reason)
        self.up.clear()
        self._broken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the connection up until `stop`, then close it."""
        retries = Retries()
        while not stop.is_set():
            try:
                with foreign_cancellation_as_error():
                    await self._live(stop)
                retries.succeeded()
            except Exception as error:  # noqa: BLE001 - the driver raises bare exceptions too: connect again
                # Errors of the driver may show the address, but never the password.
                if retries.failed():
                    is_known = isinstance(error, (*BROKER_ERRORS, Rejected, Unavailable))
                    _log.warning(
                        "broker connection failed",
                        purpose=self._purpose,
                        reason=_reason(error),
                        exc_info=None if is_known else error,
                    )
            if not stop.is_set():
                await retries.pause(stop)
                self._metrics.reconnects.labels(self._purpose).inc()

    async def _live(self, stop: asyncio.Event) -> None:
        """Open one connection and watch it until it ends."""
        self._broken.clear()
        async with asyncio.timeout(CONNECT_SECONDS):
            url = self._url if isinstance(self._url, str) else self._url()
            connection = await connect(url, self._purpose)
        gone = asyncio.ensure_future(_closed(connection))
        try:
            async with asyncio.timeout(SETUP_SECONDS):
                await self._setup(connection)
            self._connection = connection
            self.up.set()
            self._metrics.connected.labels(self._purpose).set(1)
            _log.info("broker connected", purpose=self._purpose)
            ends = [gone, asyncio.ensure_future(stop.wait()), asyncio.ensure_future(self._broken.wait())]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends[1:]:
                end.cancel()
        finally:
            self.up.clear()
            self._connection = None
            self._metrics.connected.labels(self._purpose).set(0)
            gone.cancel()
            await hang_up(connection)


async def connect(url: str, purpose: str) -> Connection:
    """Open one connection that notices a dead peer; the caller closes it with `hang_up`.

    Raises:
        Unavailable: TLS fails; the message says which setting to correct.
    """
    asked = URL(url)
    query = {"heartbeat": str(HEARTBEAT_SECONDS), "name": f"dtq-{purpose}"}
    connection = Connection(asked.update_query(query), takes_frames=asked.query.get("frames") != "driver")
    try:
        await connection.connect()
    except BROKER_ERRORS as error:
        cause = error if isinstance(error, ssl.SSLError) else error.__cause__  # the driver wraps the error
        if isinstance(cause, ssl.SSLError):
            raise Unavailable(_tls_trouble(cause)) from error
        raise
    return connection


async def hang_up(connection: aiormq.Connection) -> None:
    """Close a connection, within a bounded time; a broken connection is not an error."""
    with suppress(*BROKER_ERRORS), foreign_cancellation_as_error():
        await connection.close(timeout=CLOSE_SECONDS)


async def _closed(connection: AbstractConnection) -> None:
    with suppress(Exception, asyncio.CancelledError):
        await connection.closing


def _tls_trouble(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"RabbitMQ's certificate is refused ({error.verify_message}): name the file of its authority in"
            " RMQ_CA_FILE, and in RMQ_HOST a name that the certificate holds"
        )
    return (
        f"TLS with RabbitMQ fails ({error.reason}): check that RMQ_PORT takes AMQP over TLS (usually 5671), and that"
        " RMQ_CA_FILE holds certificates"
    )


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:300]

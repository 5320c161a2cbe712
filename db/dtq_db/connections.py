"""Connections: a small pool for occasional statements, and dedicated connections for permanent loops.

A statement whose outcome is unknown is not retried: only the caller knows whether that is safe.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self

import asyncpg
import structlog

from dtq.domain.errors import Unavailable
from dtq_db import sessions
from dtq_db.driver_errors import UNAVAILABLE, translated
from dtq_db.queries import query

ACQUIRE_SECONDS: Final = 2.0
"""Longest wait for a pooled connection, in seconds: a request must not hang on an exhausted pool."""
STATEMENT_SECONDS: Final = 5.0
"""Longest statement, in seconds; the server cancels longer ones."""
POOL_MAX: Final = 8
"""Most connections in one process's pool, without the dedicated connections."""

SERVER_SETTINGS: Final = {
    "statement_timeout": str(int(STATEMENT_SECONDS * 1000)),
    "lock_timeout": "2000",
    "idle_in_transaction_session_timeout": "10000",
    # A statement prepared while `tasks` was empty would keep its sequential scan for ever (measured).
    "enable_seqscan": "off",
    # With old statistics, sorting "no rows" from any index looks as cheap as the index made for the order.
    "enable_sort": "off",
    "jit": "off",
    "timezone": "UTC",
}

_log = structlog.get_logger(__name__)

Dsn = str | Callable[[], str]
"""A DSN, or a function that returns the current DSN: a password may be rotated while the process runs."""


async def connect(dsn: Dsn, *, name: str) -> "asyncpg.Connection[asyncpg.Record]":
    """Open one connection; its waits are bounded.

    Raises:
        Unavailable: the server cannot be reached or refuses.
    """
    return await sessions.connect(
        _in_force(dsn), name=name, settings=SERVER_SETTINGS, statement_seconds=STATEMENT_SECONDS + 1
    )


class DedicatedConnection:
    """A connection kept for one user at a time: no reset query, no wait for a pool.

    It connects on first use, and again after it broke.
    """

    def __init__(self, dsn: Dsn, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._lock = asyncio.Lock()
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement and return its rows.

        Raises:
            Unavailable: the database does not answer; whether the statement took effect is unknown.
        """
        async with self._held() as connection:
            return await connection.fetch(query, *args)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Use the connection for several statements in one transaction.

        Raises:
            Unavailable: the database does not answer.
        """
        async with self._held() as connection, connection.transaction():
            yield connection

    async def close(self) -> None:
        """Close the connection, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await _close(connection)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await connect(self._dsn, name=self._name)
            try:
                with translated():
                    yield self._connection
            except (Unavailable, asyncio.CancelledError):
                # Its state is unknown, or the server is read-only after a failover: connect again.
                broken, self._connection = self._connection, None
                if broken is not None:
                    broken.terminate()
                raise


class Database:
    """The pool and the dedicated connections of one process."""

    def __init__(self, dsn: Dsn, *, name: str) -> None:
        self.dsn = dsn
        self.name = name
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._dedicateds: list[DedicatedConnection] = []

    async def __aenter__(self) -> Self:
        """Prepare the pool without connecting: a process may start before its database."""
        self._pool = asyncpg.create_pool(connect=self._connect, reset=_keep, min_size=0, max_size=POOL_MAX)
        with translated():
            await self._pool
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the pool and every dedicated connection."""
        for dedicated in self._dedicateds:
            await dedicated.close()
        if self._pool is not None:
            self._pool.terminate()

    async def _connect(self, *_: Any, **__: Any) -> "asyncpg.Connection[asyncpg.Record]":
        return await connect(self.dsn, name=self.name)

    def dedicated(self, purpose: str) -> DedicatedConnection:
        """Return a new dedicated connection; `close` closes it too."""
        dedicated = DedicatedConnection(self.dsn, name=f"{self.name}/{purpose}")
        self._dedicateds.append(dedicated)
        return dedicated

    async def fetch(self, query: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement on a pooled connection and return its rows.

        Raises:
            Unavailable: no connection in time, or the database does not answer.
        """
        async with self.acquired() as connection:
            return await connection.fetch(query, *args)

    @asynccontextmanager
    async def acquired(self) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
        """Borrow a pooled connection for a few statements.

        Raises:
            Unavailable: no connection in time, or the database does not answer.
        """
        assert self._pool is not None, "enter the database first"
        with translated():
            async with AsyncExitStack() as held:
                with translated(sent=False):
                    connection = await held.enter_async_context(self._pool.acquire(timeout=ACQUIRE_SECONDS))
                try:
                    yield connection  # type: ignore[misc]  # a pool proxy has the connection's methods
                except asyncpg.ReadOnlySQLTransactionError:
                    await self._pool.expire_connections()
                    raise


async def is_read_only(database: "Database | DedicatedConnection") -> bool:
    """Return whether the database answers but is read-only.

    Raises:
        Unavailable: the database does not answer.
    """
    (row,) = await database.fetch(query("database_read_only"))
    return bool(row["read_only"])


async def _keep(_: object) -> None:
    """Keep a session's settings: RESET ALL would remove those that were set after the start because of a pooler."""


def _in_force(dsn: Dsn) -> str:
    return dsn if isinstance(dsn, str) else dsn()


async def _close(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    try:
        await connection.close(timeout=1.0)
    except (*UNAVAILABLE, asyncpg.PostgresError) as error:
        _log.debug("connection close failed", reason=str(error))
        connection.terminate()

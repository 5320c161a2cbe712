"""Migrations: plain SQL files, applied in order, each once, under a lock.

Owns `schema/` and the table `dtq_migration`. Must never go backwards: a mistake is mended by the next file.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, TypeVar

import asyncpg
import structlog

from dtq.domain.errors import Rejected, Unavailable
from dtq.runtime.loops import backoff_seconds
from dtq_db import sessions
from dtq_db.driver_errors import translated

LOCK_KEY: Final = 0x647471  # "dtq"
"""Key of the advisory lock that lets one migrator through at a time."""
LOCK_MILLISECONDS: Final = 1_000
"""How long a migration waits for a table's lock, in milliseconds: as long, everyone behind it waits too."""
LOCK_TRIES: Final = 30
"""How often it asks for it: with the pauses between, some minutes."""
_NAME: Final = re.compile(r"^(\d{4})_(pre|post)_[a-z0-9_]+\.sql$")
_LEDGER: Final = """
CREATE TABLE IF NOT EXISTS dtq_migration (
    name text PRIMARY KEY,
    checksum text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""

T = TypeVar("T")
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One file of `schema/`."""

    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What is applied and what is still to come, by name."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]


def migrations() -> list[Migration]:
    """Return every migration in order.

    Raises:
        ValueError: a file's name does not say its number and phase.
    """
    found = []
    for entry in sorted((files("dtq_db") / "schema").iterdir(), key=lambda entry: entry.name):
        if not entry.name.endswith(".sql"):
            continue
        if not _NAME.match(entry.name):
            raise ValueError(f"{entry.name}: name a migration NNNN_pre_<what>.sql or NNNN_post_<what>.sql")
        found.append(Migration(name=entry.name, sql=entry.read_text(encoding="utf-8")))
    return found


def pending(known: list[Migration], ledger: dict[str, str]) -> list[Migration]:
    """Return what is still to be applied.

    A `pre` migration of a newer version is no hindrance: old code runs on the new schema, so that a rollout can be
    rolled back. A `post` migration takes away what old code needs.

    Raises:
        Rejected: an applied file was edited, or a newer version has taken away what this one needs.
    """
    by_name = {migration.name: migration for migration in known}
    for name, checksum in ledger.items():
        migration = by_name.get(name)
        if migration is None:
            phase = _NAME.match(name)
            if phase is not None and phase.group(2) == "pre":
                continue
            raise Rejected(
                "DatabaseTooNew",
                f"the database has migration {name}, which this version does not know: run the version that made it",
            )
        if migration.checksum != checksum:
            raise Rejected(
                "MigrationEdited",
                f"migration {name} was edited after it was applied: restore it, and add a new file",
            )
    return [migration for migration in known if migration.name not in ledger]


async def migrate(dsn: str) -> tuple[str, ...]:
    """Apply what is pending and return its names; safe to repeat and to run at the same time.

    Raises:
        Rejected: see `pending`.
        Unavailable: the database does not answer.
    """
    async with _session(dsn) as connection:
        # The lock is the session's: it also holds between the transactions of two files.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        await connection.execute(_LEDGER)
        todo = pending(migrations(), await _ledger(connection))
        for migration in todo:
            await apply(connection, migration)
    return tuple(migration.name for migration in todo)


async def apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    """Apply one migration. A lock that it cannot have at once is let go of and asked for again, LOCK_TRIES times.

    Whoever waits for a table's lock makes everyone after it wait too, even those who would only read.

    Raises:
        asyncpg.LockNotAvailableError: others held a lock all the time; nothing was changed.
    """
    for failures in range(1, LOCK_TRIES + 1):
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms'")
                await connection.execute(migration.sql)
                await connection.execute(
                    "INSERT INTO dtq_migration (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
                )
        except asyncpg.LockNotAvailableError:
            if failures == LOCK_TRIES:
                raise
            _log.warning("migration waits for a lock", migration=migration.name, failures=failures)
            await asyncio.sleep(backoff_seconds(failures))
        else:
            return


async def status(dsn: str) -> Status:
    """Return what is applied and what is pending, changing nothing.

    Raises:
        Rejected: see `pending`.
        Unavailable: the database does not answer.
    """
    async with _session(dsn) as connection:
        exists = await connection.fetchval("SELECT to_regclass('dtq_migration') IS NOT NULL")
        ledger = await _ledger(connection) if exists else {}
    todo = pending(migrations(), ledger)
    return Status(applied=tuple(ledger), pending=tuple(migration.name for migration in todo))


async def check(dsn: str) -> None:
    """Return if nothing is pending.

    Raises:
        Rejected: see `pending`.
        Unavailable: something is pending, or the database does not answer.
    """
    todo = (await status(dsn)).pending
    if todo:
        raise Unavailable(f"the database lacks migration {todo[0]}: dtq migrate applies it")


async def patiently(work: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Do `work`, again and again while it is `Unavailable`, for that many seconds.

    Raises:
        Unavailable: it still is.
    """
    ends_at = asyncio.get_running_loop().time() + seconds
    failures = 0
    while True:
        try:
            return await work()
        except Unavailable as error:
            failures += 1
            pause = backoff_seconds(failures)
            if asyncio.get_running_loop().time() + pause > ends_at:
                raise
            if failures == 1:
                _log.info("waiting for the database", reason=str(error), seconds=seconds)
            await asyncio.sleep(pause)


async def _ledger(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, str]:
    rows = await connection.fetch("SELECT name, checksum FROM dtq_migration ORDER BY name")
    return {row["name"]: row["checksum"] for row in rows}


@asynccontextmanager
async def _session(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """A plain session without a statement timeout: a migration takes what it takes."""
    connection = await sessions.connect(dsn, name="dtq-migrate", settings={}, statement_seconds=None)
    try:
        with translated():
            yield connection
    finally:
        await connection.close()

"""Migrations: applies the SQL files of `schema/` in order, each once, under a lock; `dtq_migration` records them.

There are no down migrations: the next file fixes a mistake.
"""

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
from dtq.runtime.loops import Retries
from dtq_db import roles, sessions
from dtq_db.driver_errors import translated

LOCK_KEY: Final = 0x647471  # "dtq"
"""Key of the advisory lock that lets one migrator through at a time."""
LOCK_MILLISECONDS: Final = 1_000
"""How long a migration waits for a table's lock, in milliseconds: every session queued behind it waits as long."""
LOCK_TRIES: Final = 30
"""How often a migration tries to get the lock: with the pauses, for some minutes."""
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
    """The applied and the pending migrations, by name."""

    applied: tuple[str, ...]
    pending: tuple[str, ...]


def migrations() -> list[Migration]:
    """Return every migration in order.

    Raises:
        ValueError: a file's name lacks number or phase.
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
    """Return the pending migrations.

    A `pre` migration of a newer version is allowed: old code runs on the new schema, so that a rollout can be rolled
    back. A `post` migration removes what old code needs.

    Raises:
        Rejected: an applied file was edited, or a newer version has removed what this one needs.
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
                f"the database has migration {name}, which this release does not know: run the release that added it",
            )
        if migration.checksum != checksum:
            raise Rejected(
                "MigrationEdited",
                f"migration {name} was edited after it was applied: restore it, and add a new migration",
            )
    return [migration for migration in known if migration.name not in ledger]


async def migrate(dsn: str, *, with_roles: bool = False) -> tuple[str, ...]:
    """Apply the pending migrations and return their names; safe to repeat and to run concurrently.

    In a database with the roles, the migrations run as the owner of the schema, and the grants are renewed afterwards.

    Args:
        dsn: a connection string.
        with_roles: also create the roles, give them what they need, and make `dtq_owner` the owner of the schema.

    Raises:
        Rejected: see `pending`; or the user may not migrate, or not create the roles.
        Unavailable: the database does not answer.
    """
    async with _session(dsn) as connection:
        # A session-level lock: it is also held between the transactions of two files.
        await connection.execute("SELECT pg_advisory_lock($1)", LOCK_KEY)
        todo = pending(migrations(), await _ledger(connection))
        if todo:
            await roles.become_owner(connection)
            await connection.execute(_LEDGER)
        for migration in todo:
            await apply(connection, migration)
        if with_roles:
            await connection.execute("RESET ROLE")
            await _locked(connection, "roles", lambda: roles.create(connection))
        elif todo and await roles.are_in_use(connection):
            await _locked(connection, "grants", lambda: roles.grant(connection))
    return tuple(migration.name for migration in todo)


async def roles_script(dsn: str) -> str:
    """Return what `migrate(with_roles=True)` runs after the migrations, for an administrator to run.

    Raises:
        Unavailable: the database does not answer.
    """
    async with _session(dsn) as connection:
        return await roles.script(connection)


async def apply(connection: "asyncpg.Connection[asyncpg.Record]", migration: Migration) -> None:
    """Apply one migration. After a lock timeout it is tried again, LOCK_TRIES times.

    Raises:
        asyncpg.LockNotAvailableError: other sessions held a lock all the time; nothing was changed.
    """

    async def run() -> None:
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO dtq_migration (name, checksum) VALUES ($1, $2)", migration.name, migration.checksum
        )

    await _locked(connection, migration.name, run)


async def _locked(
    connection: "asyncpg.Connection[asyncpg.Record]", name: str, work: Callable[[], Awaitable[None]]
) -> None:
    """Do `work` in a transaction. After a lock timeout it is tried again, LOCK_TRIES times.

    A session that waits for a table's lock blocks every session queued behind it, even readers.

    Raises:
        asyncpg.LockNotAvailableError: other sessions held a lock all the time; nothing was changed.
    """
    retries = Retries()
    while True:
        try:
            async with connection.transaction():
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_MILLISECONDS}ms'")
                await work()
        except asyncpg.LockNotAvailableError:
            retries.failed()
            if retries.failures == LOCK_TRIES:
                raise
            _log.warning("migration lock timed out", migration=name, failures=retries.failures)
            await retries.pause()
        else:
            return


async def status(dsn: str) -> Status:
    """Return the applied and the pending migrations, without changing anything.

    Raises:
        Rejected: see `pending`.
        Unavailable: the database does not answer.
    """
    async with _session(dsn) as connection:
        ledger = await _ledger(connection)
    todo = pending(migrations(), ledger)
    return Status(applied=tuple(ledger), pending=tuple(migration.name for migration in todo))


async def check(dsn: str) -> None:
    """Check that no migration is pending.

    Raises:
        Rejected: see `pending`.
        Unavailable: a migration is pending, or the database does not answer.
    """
    todo = (await status(dsn)).pending
    if todo:
        raise Unavailable(f"migration {todo[0]} is pending: run `dtq migrate`")


async def patiently(work: Callable[[], Awaitable[T]], seconds: float) -> T:
    """Call `work`, repeatedly while it raises `Unavailable`, for that many seconds.

    Raises:
        Unavailable: the last call raised it.
    """
    retries = Retries(deadline_seconds=seconds)
    while True:
        try:
            return await work()
        except Unavailable as error:
            is_first = retries.failed()
            if retries.is_over:
                raise
            if is_first:
                _log.info("database wait started", reason=str(error), seconds=seconds)
            await retries.pause()


async def _ledger(connection: "asyncpg.Connection[asyncpg.Record]") -> dict[str, str]:
    if not await connection.fetchval("SELECT to_regclass('dtq_migration') IS NOT NULL"):
        return {}
    rows = await connection.fetch("SELECT name, checksum FROM dtq_migration ORDER BY name")
    return {row["name"]: row["checksum"] for row in rows}


@asynccontextmanager
async def _session(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Open a session without a statement timeout: a migration may take long."""
    connection = await sessions.connect(dsn, name="dtq-migrate", settings={}, statement_seconds=None)
    try:
        with translated():
            yield connection
    finally:
        await connection.close()

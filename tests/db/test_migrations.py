"""Migrations go forward, once, one migrator at a time; an edited or unknown one stops everything."""

import asyncio
from importlib.resources import files
from uuid import uuid4

import asyncpg
import pytest

from dtq.domain.errors import Rejected, Unavailable, Unmigrated
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_db.migrations import Migration, apply, check, migrate, migrations, patiently, pending, status
from dtq_db.queries import query
from tests.db.world import Connection


async def test_every_file_is_applied_once_and_in_order(empty_dsn: str) -> None:
    known = tuple(migration.name for migration in migrations())
    assert (await status(empty_dsn)).pending == known
    assert await migrate(empty_dsn) == known
    assert await migrate(empty_dsn) == ()
    now = await status(empty_dsn)
    assert (now.applied, now.pending) == (known, ())


async def test_migrators_that_meet_apply_each_file_once(empty_dsn: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(name for part in applied for name in part) == [migration.name for migration in migrations()]


async def test_an_edited_migration_is_refused(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE dtq_migration SET checksum = 'other' WHERE name LIKE '0002%'")
    await connection.close()
    for look in (migrate, status):
        with pytest.raises(Rejected, match="0002") as caught:
            await look(dsn)
        assert caught.value.code == "MigrationEdited"


async def test_a_database_whose_newer_version_took_something_away_is_refused(dsn: str) -> None:
    await _note(dsn, "9999_post_future.sql")
    for look in (migrate, status, check):
        with pytest.raises(Rejected, match="9999_post_future") as caught:
            await look(dsn)
        assert caught.value.code == "DatabaseTooNew"


async def test_old_code_accepts_what_a_newer_version_added_so_that_a_rollout_can_be_rolled_back(dsn: str) -> None:
    await _note(dsn, "9999_pre_future.sql")
    assert await migrate(dsn) == ()
    await check(dsn)


async def test_a_check_tells_what_is_pending_and_changes_nothing(empty_dsn: str) -> None:
    with pytest.raises(Unavailable, match="0001_pre_tables"):
        await check(empty_dsn)
    assert (await status(empty_dsn)).applied == ()


async def test_a_patient_check_ends_once_the_schema_is_there(empty_dsn: str) -> None:
    looked = asyncio.Event()

    async def look() -> None:
        looked.set()
        await check(empty_dsn)

    waiting = asyncio.create_task(patiently(look, 60.0))
    await looked.wait()
    await migrate(empty_dsn)
    await waiting


async def test_patience_ends_with_the_reason() -> None:
    async def look() -> None:
        raise Unavailable("still down")

    with pytest.raises(Unavailable, match="still down"):
        await patiently(look, 0.3)


async def test_a_migration_that_waits_for_a_lock_holds_nobody_up(dsn: str) -> None:
    reader, migrator, other = [await asyncpg.connect(dsn) for _ in range(3)]
    migration = Migration(name="9998_pre_more.sql", sql="ALTER TABLE tasks ADD COLUMN more text")
    try:
        async with reader.transaction():
            await reader.execute("SELECT 1 FROM tasks")
            applying = asyncio.create_task(apply(migrator, migration))
            await _wanted_by(reader, migrator)
            async with asyncio.timeout(30):  # it would wait behind the migration for as long as the reader reads
                await other.execute("SELECT 1 FROM tasks")
            assert not applying.done()
        await applying
        assert await other.fetchval("SELECT count(*) FROM dtq_migration WHERE name = $1", migration.name) == 1
    finally:
        for connection in (reader, migrator, other):
            connection.terminate()


async def _wanted_by(watcher: Connection, waiting: Connection) -> None:
    """Return once the other connection waits for a lock."""
    pid = waiting.get_server_pid()
    async with asyncio.timeout(10):
        while not await watcher.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
            pass


async def _note(dsn: str, name: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO dtq_migration (name, checksum) VALUES ($1, 'x')", name)
    await connection.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await status("postgresql://nobody:secret@127.0.0.1:1/none")


def test_only_what_is_not_in_the_ledger_is_pending() -> None:
    first, second = Migration(name="0001_pre_a.sql", sql="a"), Migration(name="0002_post_b.sql", sql="b")
    assert pending([first, second], {first.name: first.checksum}) == [second]


def test_numbers_of_migrations_are_consecutive_and_nothing_goes_back() -> None:
    known = migrations()
    assert [int(migration.name[:4]) for migration in known] == list(range(1, len(known) + 1))
    schema = files("dtq_db") / "schema"
    assert not [entry.name for entry in schema.iterdir() if "down" in entry.name]


async def test_a_database_without_our_schema_is_unavailable_and_says_what_to_do(empty_dsn: str) -> None:
    async with Database(empty_dsn, name="test") as database:
        with pytest.raises(Unmigrated, match="dtq migrate") as caught:
            await catalog.revision(database)
        assert not caught.value.in_doubt, "nothing can have been done"


async def test_so_is_one_that_is_older_than_the_code(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("ALTER TABLE task_type RENAME rate_limit TO not_yet")
    await connection.execute("DROP FUNCTION dtq_expire(uuid)")
    await connection.close()
    async with Database(dsn, name="test") as database:
        with pytest.raises(Unmigrated):
            await catalog.newer_types(database, ["report.build.v1"])
        with pytest.raises(Unmigrated):
            await database.fetch(query("worker_expire"), uuid4())


async def test_so_is_one_that_does_not_exist(empty_dsn: str) -> None:
    async with Database(f"{empty_dsn}_not_there", name="test") as database:
        with pytest.raises(Unmigrated, match="not_there"):
            await catalog.revision(database)

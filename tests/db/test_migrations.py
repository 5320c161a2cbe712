"""Migrations go forward, once, one migrator at a time; an edited or unknown one stops everything."""

import asyncio
from importlib.resources import files

import asyncpg
import pytest

from dtq.domain.errors import Rejected, Unavailable
from dtq_db.migrations import Migration, migrate, migrations, pending, status


async def test_every_file_is_applied_once_and_in_order(empty_dsn: str) -> None:
    known = tuple(one.name for one in migrations())
    assert (await status(empty_dsn)).pending == known
    assert await migrate(empty_dsn) == known
    assert await migrate(empty_dsn) == ()
    now = await status(empty_dsn)
    assert (now.applied, now.pending) == (known, ())


async def test_migrators_that_meet_apply_each_file_once(empty_dsn: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_dsn) for _ in range(4)))
    assert sorted(name for part in applied for name in part) == [one.name for one in migrations()]


async def test_an_edited_migration_is_refused(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("UPDATE dtq_migration SET checksum = 'other' WHERE name LIKE '0002%'")
    await connection.close()
    for look in (migrate, status):
        with pytest.raises(Rejected, match="0002") as caught:
            await look(dsn)
        assert caught.value.code == "MigrationEdited"


async def test_a_database_that_is_newer_than_the_program_is_refused(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    await connection.execute("INSERT INTO dtq_migration (name, checksum) VALUES ('9999_pre_future.sql', 'x')")
    await connection.close()
    with pytest.raises(Rejected, match="9999_pre_future") as caught:
        await migrate(dsn)
    assert caught.value.code == "DatabaseTooNew"


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        await status("postgresql://nobody:secret@127.0.0.1:1/none")


def test_only_what_is_not_in_the_ledger_is_pending() -> None:
    first, second = Migration(name="0001_pre_a.sql", sql="a"), Migration(name="0002_post_b.sql", sql="b")
    assert pending([first, second], {first.name: first.checksum}) == [second]


def test_numbers_of_migrations_are_consecutive_and_nothing_goes_back() -> None:
    known = migrations()
    assert [int(one.name[:4]) for one in known] == list(range(1, len(known) + 1))
    schema = files("dtq_db") / "schema"
    assert not [entry.name for entry in schema.iterdir() if "down" in entry.name]

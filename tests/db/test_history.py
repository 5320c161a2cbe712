"""The history's partitions: made ahead, repaired when they are missing, dropped by age."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from uuid import uuid4

from dtq_db import maintenance
from dtq_db.connections import Database
from dtq_db.queries import query
from tests.db.world import World, blocked

MakeWorld = Callable[[], Awaitable[World]]
PARTITIONS = """
SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
WHERE i.inhparent = 'task_events'::regclass ORDER BY 1
"""


async def partitions(world: World) -> list[str]:
    return [row["relname"] for row in await world.sql.fetch(PARTITIONS)]


async def today(world: World) -> date:
    day: date = await world.sql.fetchval("SELECT (now() AT TIME ZONE 'UTC')::date")
    return day


def name(day: date) -> str:
    return f"task_events_{day:%Y%m%d}"


async def test_partitions_are_made_ahead_and_only_once(world: World) -> None:
    day = await today(world)
    assert await world.sql.fetchval(query("event_partitions_create"), 9) in (2, 3)
    assert await world.sql.fetchval(query("event_partitions_create"), 9) == 0
    assert {name(day + timedelta(days=ahead)) for ahead in range(10)} <= {*await partitions(world)}


async def test_an_event_of_a_day_without_a_partition_is_kept_and_moved(world: World) -> None:
    day = await today(world)
    await world.sql.execute(f"DROP TABLE {name(day)}")
    id_ = await world.one()
    assert await world.sql.fetchval("SELECT count(*) FROM task_events_default") == 1
    assert await world.sql.fetchval(query("event_partitions_create"), 0) == 1
    assert await world.sql.fetchval("SELECT count(*) FROM task_events_default") == 0
    assert await world.events(id_) == ["ENQUEUED"]
    await world.cancel(id_)
    assert await world.sql.fetchval(f"SELECT count(*) FROM {name(day)}") == 2


async def test_a_missing_partition_is_made_while_tasks_are_moving(world: World, another: MakeWorld) -> None:
    await world.sql.execute(f"DROP TABLE {name(await today(world))}")
    other = await another()
    async with world.sql.transaction():
        id_ = await world.one()
        creating = asyncio.ensure_future(other.sql.fetchval(query("event_partitions_create"), 0))
        await blocked(await another(), other)
        await world.one()
    assert await creating == 1
    assert await world.events(id_) == ["ENQUEUED"]


async def test_two_that_make_the_same_partitions_do_not_meet_in_error(another: MakeWorld) -> None:
    worlds = [await another() for _ in range(4)]
    made = await asyncio.gather(*(world.sql.fetchval(query("event_partitions_create"), 12) for world in worlds))
    assert sorted(made)[:3] == [0, 0, 0]


async def test_old_partitions_are_dropped_and_young_ones_stay(world: World) -> None:
    day = await today(world)
    for age in (31, 30, 29):
        await world.sql.execute("SELECT dtq_create_event_partition($1)", day - timedelta(days=age))
    assert await world.sql.fetchval(query("event_partitions_drop"), 30) == [name(day - timedelta(days=31))]
    left = await partitions(world)
    assert name(day - timedelta(days=30)) in left
    assert "task_events_default" in left
    assert await world.sql.fetchval(query("event_partitions_drop"), 30) == []


async def test_the_pruner_rotates_the_history(world: World, dsn: str) -> None:
    day = await today(world)
    await world.sql.execute("SELECT dtq_create_event_partition($1)", day - timedelta(days=90))
    async with Database(dsn, name="test") as database:
        assert await maintenance.rotate_events(database, days_ahead=8, keep_days=30) == [name(day - timedelta(days=90))]
    assert name(day + timedelta(days=8)) in await partitions(world)


async def test_history_outlives_its_task(world: World) -> None:
    id_ = await world.failed()
    await world.sql.execute("DELETE FROM tasks WHERE id = $1", id_)
    assert await world.events(id_) == ["ENQUEUED", "RUNNING", "FAILED"]
    assert await world.events(uuid4()) == []

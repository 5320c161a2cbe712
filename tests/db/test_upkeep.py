"""Maintenance: what the loops take in one step, alone or beside another replica."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest_asyncio
from prometheus_client import CollectorRegistry

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import CRASHES_MAX, decide
from dtq.domain.states import TaskStatus
from dtq.runtime.metrics import MaintenanceMetrics
from dtq_db import maintenance
from dtq_db.attempts import Completion
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.maintenance import DueSchedule, DueTask, OrphanedTask
from dtq_db.tasks import NewTask
from dtq_maintenance.scheduler import Scheduler
from tests.db.world import TYPE, World, blocked, ending

MakeWorld = Callable[[], Awaitable[World]]


@pytest_asyncio.fixture(loop_scope="session")
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, name="test") as database:
        yield database


@pytest_asyncio.fixture(loop_scope="session")
async def dedicated(database: Database) -> DedicatedConnection:
    return database.dedicated("test")


def lost(held: OrphanedTask) -> Completion:
    decision = decide(held.ended, held.backoff or Backoff(), 0.0)
    return Completion(worker_id=held.worker_id, id=held.id, attempt=held.ended.attempt, decision=decision)


async def test_a_reap_takes_back_what_a_lost_worker_ran(world: World, dedicated: DedicatedConnection) -> None:
    worker, id_ = await world.running()
    _, healthy = await world.running()
    assert await maintenance.reap(dedicated, lost) == ({}, False)
    await world.expire(worker)
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": 1}, True)
    assert await maintenance.reap(dedicated, lost) == ({}, False)
    row = await world.row(id_)
    assert (row["status"], row["crashes"], row["suspected_at"] is None) == ("ENQUEUED", 0, False)
    assert row["last_error"].startswith("worker lost: this task runs again alone")
    assert (await world.row(healthy))["status"] == "RUNNING"
    assert await world.finish(ending(worker, id_, 1, TaskStatus.SUCCEEDED)) == {}


async def test_a_task_that_takes_its_workers_down_fails_for_good(world: World, dedicated: DedicatedConnection) -> None:
    id_ = await world.one(max_attempts=20)
    for attempt in range(1, CRASHES_MAX + 2):
        worker = await world.worker()
        await world.sql.execute("UPDATE tasks SET run_at = now() WHERE id = $1", id_)
        assert await world.claim(worker, id_)
        await world.run_alone(worker, id_, attempt)
        await world.expire(worker)
        await maintenance.reap(dedicated, lost)
    row = await world.row(id_)
    assert (row["status"], row["crashes"]) == ("FAILED", CRASHES_MAX)


async def test_a_reap_works_through_a_worker_with_more_than_one_batch(
    world: World, dedicated: DedicatedConnection
) -> None:
    ids, worker = await world.enqueue(maintenance.BATCH + 5), await world.worker()
    await world.claim(worker, *ids)
    await world.expire(worker)
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": maintenance.BATCH}, True)
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": 5}, True)
    assert await maintenance.reap(dedicated, lost) == ({}, False)


async def test_two_reapers_take_each_task_back_once(world: World, database: Database) -> None:
    for _ in range(6):
        worker, _ = await world.running()
        await world.expire(worker)
    connections = [database.dedicated("a"), database.dedicated("b")]

    async def reaper(one: DedicatedConnection) -> int:
        total = 0
        while (step := await maintenance.reap(one, lost))[1]:
            total += step[0].total()
        return total

    assert sum(await asyncio.gather(*map(reaper, connections))) == 6
    assert await world.sql.fetchval("SELECT count(*) FROM task_events WHERE event = 'RETRY'") == 6


async def test_two_relays_never_pick_the_same_task(world: World, another: MakeWorld) -> None:
    ids = await world.enqueue(60)
    worlds = [await another() for _ in range(3)]
    picked = await asyncio.gather(*(world.relay(limit=25) for world in worlds))
    flat = [id_ for part in picked for id_ in part]
    assert len(flat) == len(set(flat))
    assert set(flat) <= set(ids)


async def test_a_relay_passes_over_a_row_that_is_locked(world: World, another: MakeWorld) -> None:
    held, free = await world.enqueue(2)
    other = await another()
    async with other.sql.transaction():
        await other.sql.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", held)
        assert await world.relay() == [free]


async def test_a_missing_dead_letter_is_published_once(world: World, dedicated: DedicatedConnection) -> None:
    id_ = await world.failed()
    sent: list[UUID] = []

    async def publish(due: list[DueTask]) -> dict[UUID, datetime]:
        sent.extend(task.id for task in due)
        return {task.id: task.updated_at for task in due}

    assert await maintenance.dead_letter(dedicated, 60, publish) == 0
    assert await maintenance.dead_letter(dedicated, -1, publish) == 1
    assert await maintenance.dead_letter(dedicated, -1, publish) == 0
    assert sent == [id_]
    assert (await world.events(id_))[-1] == "DLQ"


async def test_a_dead_letter_that_the_broker_refused_stays_due(world: World, dedicated: DedicatedConnection) -> None:
    id_ = await world.failed()

    async def refused(_: list[DueTask]) -> dict[UUID, datetime]:
        return {}

    assert await maintenance.dead_letter(dedicated, -1, refused) == 0
    assert (await world.row(id_))["dead_lettered_at"] is None


async def test_the_copies_that_a_lost_queue_held_are_due_again(world: World, dedicated: DedicatedConnection) -> None:
    ids = {await world.failed() for _ in range(3)}
    refused = await world.failed()

    async def publish(due: list[DueTask]) -> dict[UUID, datetime]:
        return {task.id: task.updated_at for task in due if task.id != refused}

    assert await maintenance.dead_letter(dedicated, -1, publish) == len(ids)
    assert await maintenance.dead_letters_lost(dedicated, "another") == 0
    assert await maintenance.dead_letters_lost(dedicated, "default") == len(ids)
    assert await maintenance.dead_letters_lost(dedicated, "default") == 0
    assert await maintenance.dead_letter(dedicated, -1, publish) == len(ids)
    assert (await world.events(min(ids))).count("DLQ") == 2


async def test_the_pruner_walks_the_table_and_drops_only_what_is_over(
    world: World, dedicated: DedicatedConnection
) -> None:
    ids = sorted(await world.enqueue(maintenance.BATCH + 10))
    worker = await world.worker()
    await world.claim(worker, *ids)
    over, young = ids[::2], ids[1::2]
    await world.finish(*(ending(worker, id_, 1, TaskStatus.SUCCEEDED) for id_ in over + young[:3]))
    await world.sql.execute("UPDATE tasks SET updated_at = now() - interval '8 days' WHERE id = ANY ($1)", over)
    first, more = await maintenance.prune(dedicated)
    assert more
    rest, more = await maintenance.prune(dedicated)
    assert (more, first + rest) == (False, len(over))
    assert await world.sql.fetchval("SELECT count(*) FROM tasks") == len(young)


async def test_failed_tasks_are_kept_as_long_as_their_own_retention_says(
    world: World, dedicated: DedicatedConnection
) -> None:
    failed = await world.failed()
    cancelled = await world.one()
    await world.cancel(cancelled)
    await world.sql.execute("UPDATE tasks SET updated_at = now() - interval '8 days'")
    assert await maintenance.prune(dedicated) == (1, False)
    assert (await world.row(failed))["status"] == "FAILED"


async def test_an_empty_table_is_pruned_in_peace(world: World, dedicated: DedicatedConnection) -> None:
    assert await world.sql.fetchval("SELECT count(*) FROM tasks") == 0
    assert await maintenance.prune(dedicated) == (0, False)


async def test_workers_that_ended_long_ago_are_forgotten(
    world: World, dedicated: DedicatedConnection, database: Database
) -> None:
    old, young = await world.worker(), await world.worker()
    await world.expire(old)
    await maintenance.reap(dedicated, lost)
    await world.sql.execute("UPDATE workers SET reaped_at = now() - interval '2 days' WHERE id = $1", old)
    await maintenance.prune_workers(database)
    assert [row["id"] for row in await world.sql.fetch("SELECT id FROM workers")] == [young]


def fire(due: DueSchedule) -> tuple[NewTask | None, datetime]:
    following = due.now + timedelta(hours=1)
    if due.next_fire_at is None:
        return None, following
    task = NewTask(
        id=uuid4(),
        type=due.type,
        queue_set=due.queue_set,
        queue=due.default_queue,
        payload=due.payload,
        max_attempts=due.default_max_attempts,
        idempotency_key=f"schedule:{due.name}:{due.next_fire_at}",
    )
    return task, following


async def schedule(world: World, name: str, *, due: bool) -> None:
    await world.sql.execute(
        "INSERT INTO schedule (type, name, cron, timezone, payload, next_fire_at)"
        " VALUES ($1, $2, '* * * * *', 'UTC', '{}', CASE WHEN $3 THEN now() END)",
        TYPE,
        name,
        due,
    )


async def test_a_new_entry_is_planned_before_it_fires(world: World, dedicated: DedicatedConnection) -> None:
    await schedule(world, "hourly", due=False)
    assert await maintenance.fire(dedicated, fire) == ([], False)
    assert await maintenance.fire(dedicated, fire) == ([], False)
    assert await world.sql.fetchval("SELECT next_fire_at > now() FROM schedule")


async def test_two_schedulers_fire_a_due_entry_once(world: World, database: Database) -> None:
    await schedule(world, "hourly", due=True)
    connections = [database.dedicated("a"), database.dedicated("b"), database.dedicated("c")]
    fired = await asyncio.gather(*(maintenance.fire(connection, fire) for connection in connections))
    assert sorted(len(types) for types, _ in fired) == [0, 0, 1]
    assert await world.sql.fetchval("SELECT count(*) FROM tasks") == 1


async def test_a_scheduled_task_is_published_by_the_next_relay(world: World, dedicated: DedicatedConnection) -> None:
    await schedule(world, "hourly", due=True)
    await maintenance.fire(dedicated, fire)
    assert len(await world.relay()) == 1


async def planned(world: World) -> dict[str, float]:
    rows = await world.sql.fetch(
        "SELECT name, extract(epoch FROM next_fire_at - now())::float8 AS seconds FROM schedule WHERE type = $1", TYPE
    )
    return {row["name"]: row["seconds"] for row in rows}


async def test_an_entry_planned_by_a_wrong_clock_is_planned_for_the_earlier_time(
    world: World, database: Database
) -> None:
    scheduler = Scheduler(database, metrics=MaintenanceMetrics(CollectorRegistry()))
    for name in ("far", "soon", "due", "broken"):
        await schedule(world, name, due=True)
    await world.sql.execute(
        "UPDATE schedule SET next_fire_at = now() + CASE name WHEN 'far' THEN interval '10 years'"
        " WHEN 'soon' THEN interval '1 second' WHEN 'broken' THEN interval '9 years' ELSE interval '-1 second' END,"
        " cron = CASE name WHEN 'broken' THEN 'never' ELSE cron END"
    )
    assert await scheduler.replan() is False
    seconds = await planned(world)
    assert 0 <= seconds["far"] <= 60
    assert seconds["soon"] <= 1
    assert seconds["due"] < 0, "what is due is fired, not planned away"
    assert seconds["broken"] > 1e8


async def test_replanning_goes_on_where_it_stopped(world: World, dedicated: DedicatedConnection) -> None:
    for number in range(5):
        await schedule(world, f"s{number}", due=True)
    await world.sql.execute("UPDATE schedule SET next_fire_at = now() + interval '1 year'")
    after, seen = maintenance.FIRST_SCHEDULE, []
    for _ in range(3):
        after, earlier = await maintenance.replan(dedicated, after, 2, lambda due: due.now + timedelta(seconds=5))
        seen += [name for _, name in earlier]
    assert (seen, after) == ([f"s{number}" for number in range(5)], maintenance.FIRST_SCHEDULE)


async def test_a_claim_waits_for_a_reaper_and_then_finds_its_lease_gone(
    world: World, another: MakeWorld, database: Database
) -> None:
    id_, worker = await world.one(), await world.worker()
    other = await another()
    async with database.dedicated("holder").transaction() as holder:
        await holder.fetch("SELECT id FROM workers WHERE id = $1 FOR UPDATE", worker)
        claiming = asyncio.ensure_future(other.claim(worker, id_))
        await blocked(world, other)
        await holder.execute("UPDATE workers SET lease_expires_at = now(), reaped_at = now() WHERE id = $1", worker)
    assert isinstance((await asyncio.gather(claiming, return_exceptions=True))[0], Exception)
    assert (await world.row(id_))["status"] == "ENQUEUED"

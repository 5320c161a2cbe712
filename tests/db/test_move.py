"""Tasks of a queue that was removed: counted, found, and moved; none is stranded."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

import pytest_asyncio

from dtq.domain.states import TaskStatus
from dtq_db import maintenance, resources
from dtq_db.connections import Database, DedicatedConnection
from tests.db.world import QUEUE, SET, TYPE, World, ending, in_seconds


@pytest_asyncio.fixture(loop_scope="session")
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, name="test") as database:
        yield database


@pytest_asyncio.fixture(loop_scope="session")
async def dedicated(database: Database) -> DedicatedConnection:
    return database.dedicated("test")


async def declared(world: World, *queues: str, removal_queue: str | None = None) -> None:
    """Declare these queues of the set, and no other."""
    await world.sql.execute("DELETE FROM queue WHERE queue_set = $1", SET)
    for position, queue in enumerate(queues):
        await world.sql.execute(
            "INSERT INTO queue (queue_set, name, position, type) VALUES ($1, $2, $3, 'Quorum')",
            SET, queue, position,
        )  # fmt: skip
    await world.sql.execute("UPDATE queue_set SET removal_queue = $2 WHERE name = $1", SET, removal_queue)


async def put(world: World, queue: str, *ids: UUID) -> None:
    """Have tasks wait in another queue."""
    await world.sql.execute("UPDATE tasks SET queue = $1 WHERE id = ANY ($2)", queue, ids)


async def test_whatever_waits_in_a_removed_queue_moves_and_is_published_again_when_due(
    world: World, dedicated: DedicatedConnection
) -> None:
    now = await world.now()
    (due,) = await world.enqueue()
    (scheduled,) = await world.enqueue(run_at=in_seconds(now, 3600))
    worker = await world.worker()
    retrying, running = await world.one(), await world.one()
    await world.claim(worker, retrying, running)
    await world.finish(ending(worker, retrying, 1, TaskStatus.ENQUEUED, delay_seconds=600.0))
    blocked = await world.one()
    await world.sql.execute("UPDATE tasks SET blocked_on = 'slot', publish_at = now() + '5 min' WHERE id = $1", blocked)
    for id_ in (due, scheduled):
        await world.confirm({id_: await world.version(id_)})
    everything = (due, scheduled, retrying, running, blocked)
    await put(world, "low", *everything)
    await declared(world, "high", QUEUE, removal_queue="high")

    assert await maintenance.removed_queues(dedicated) == [(SET, "low")]
    assert await maintenance.move(dedicated, SET, "low") == 4
    assert await maintenance.removed_queues(dedicated) == []
    rows = {id_: await world.row(id_) for id_ in everything}
    assert {id_: row["queue"] for id_, row in rows.items()} == dict.fromkeys(everything, "high") | {running: "low"}
    assert all(rows[id_]["needs_publish"] for id_ in (due, scheduled, retrying, blocked))
    assert rows[scheduled]["publish_at"] == in_seconds(now, 3600)
    assert rows[retrying]["publish_at"] - now > timedelta(minutes=9)
    assert rows[blocked]["publish_at"] - now > timedelta(minutes=4)
    assert await world.relay() == [due]

    # Its retry comes late into the removed queue, and is found as well.
    await world.finish(ending(worker, running, 1, TaskStatus.ENQUEUED))
    assert await maintenance.removed_queues(dedicated) == [(SET, "low")]
    assert await maintenance.move(dedicated, SET, "low") == 1
    assert (await world.row(running))["queue"] == "high"


async def test_without_a_removal_queue_a_late_task_goes_to_its_types_queue_or_to_the_most_urgent(
    world: World, dedicated: DedicatedConnection
) -> None:
    first, second = await world.enqueue(2)
    await put(world, "low", first)
    await declared(world, "high", QUEUE)
    assert await maintenance.move(dedicated, SET, "low") == 1
    assert (await world.row(first))["queue"] == QUEUE
    await put(world, "low", second)
    await declared(world, "high", "bulk")
    assert await maintenance.move(dedicated, SET, "low") == 1
    assert (await world.row(second))["queue"] == "high"


async def test_a_declared_queue_keeps_its_tasks_and_so_does_one_of_a_set_that_is_gone(
    world: World, dedicated: DedicatedConnection
) -> None:
    ids = await world.enqueue(2)
    await declared(world, QUEUE)
    assert await maintenance.removed_queues(dedicated) == []
    assert await maintenance.move(dedicated, SET, QUEUE) == 0
    await world.sql.execute("DELETE FROM queue_set WHERE name = $1", SET)
    assert await maintenance.removed_queues(dedicated) == []
    assert await maintenance.move(dedicated, SET, QUEUE) == 0
    assert {(await world.row(id_))["queue"] for id_ in ids} == {QUEUE}


async def test_what_waits_is_counted_up_to_a_bound_and_what_has_ended_is_not(world: World, database: Database) -> None:
    await world.enqueue(7)
    _, ran = await world.running()
    assert (await world.row(ran))["status"] == "RUNNING"
    assert await world.sql.fetchval("SELECT dtq_waiting($1, $2, 5)", SET, QUEUE) == 5
    async with resources.transaction(database) as found:
        assert await found.waiting(SET, QUEUE) == 7
        assert await found.waiting(SET, "low") == 0


async def test_scheduled_retrying_and_blocked_tasks_wait_as_well(world: World) -> None:
    now = await world.now()
    due, blocked = await world.enqueue(2)
    (scheduled,) = await world.enqueue(run_at=in_seconds(now, 3600))
    worker, retrying = await world.running()
    await world.finish(ending(worker, retrying, 1, TaskStatus.ENQUEUED, delay_seconds=600.0))
    await world.sql.execute("UPDATE tasks SET blocked_on = 'slot', publish_at = now() + '5 min' WHERE id = $1", blocked)

    async def waiting() -> int:
        return int(await world.sql.fetchval("SELECT dtq_waiting($1, $2, 100)", SET, QUEUE))

    assert await waiting() == 4
    # Each is counted whether its message is still to be published, or is in the broker or a worker.
    for id_ in (due, blocked, scheduled, retrying):
        assert await world.confirm({id_: await world.version(id_)}) == 1
        assert await waiting() == 4


async def test_counting_and_finding_go_by_the_index_whatever_the_history_holds(
    world: World, dedicated: DedicatedConnection
) -> None:
    await declared(world, QUEUE)
    await world.sql.execute(
        "INSERT INTO tasks (id, type, queue_set, queue, status, payload)"
        " SELECT gen_random_uuid(), $1, $2, 'low', 'SUCCEEDED', '{}' FROM generate_series(1, 20000)", TYPE, SET
    )  # fmt: skip
    await world.sql.execute("ANALYZE tasks")
    await put(world, "low", *await world.enqueue(3))
    await world.sql.execute("SELECT pg_stat_force_next_flush()")
    before = await scans(world)
    assert await world.sql.fetchval("SELECT dtq_waiting($1, 'low', 100)", SET) == 3
    assert await maintenance.removed_queues(dedicated) == [(SET, "low")]
    assert await maintenance.move(dedicated, SET, "low") == 3
    assert await scans(world) == before


async def scans(world: World) -> int:
    """How often the table of tasks was read as a whole."""
    await world.sql.execute("SELECT pg_stat_force_next_flush()")
    await world.sql.execute("SELECT pg_stat_clear_snapshot()")
    return int(await world.sql.fetchval("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'tasks'"))

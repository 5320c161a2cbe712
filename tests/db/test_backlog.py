"""The backlog: the gauges are what the table holds, and reading them costs the same whatever it holds."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from dtq_db import backlog
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.queries import query
from tests.db.test_statements import FILL, access
from tests.db.world import QUEUE, World


@pytest_asyncio.fixture(loop_scope="session")
async def dedicated(dsn: str) -> AsyncIterator[DedicatedConnection]:
    async with Database(dsn, name="test") as database:
        yield database.dedicated("backlog")


async def test_an_empty_table_has_no_backlog(world: World, dedicated: DedicatedConnection) -> None:
    found = await backlog.look(dedicated)
    assert [(queue.queue, queue.waiting, queue.oldest_seconds) for queue in found.queues] == [(QUEUE, 0, 0.0)]
    assert (found.outbox, found.outbox_lag_seconds, found.failed, found.dead_letters_due) == (0, 0.0, 0, 0)
    assert (found.workers_alive, found.workers_expired) == (0, 0)
    assert await world.sql.fetchval("SELECT count(*) FROM tasks") == 0


async def test_what_is_due_waits_and_what_is_due_later_or_runs_does_not(
    world: World, dedicated: DedicatedConnection
) -> None:
    ids = await world.enqueue(3)
    await world.confirm({ids[0]: await world.version(ids[0])})
    await world.running()
    await world.one(run_at=(await world.now()).replace(year=2099))
    await world.sql.execute("UPDATE tasks SET run_at = now() - interval '90 seconds' WHERE id = $1", ids[0])
    (queue,) = (await backlog.look(dedicated)).queues
    assert queue.waiting == 3
    assert 90 <= queue.oldest_seconds < 150


@pytest.mark.parametrize("paused", [False, True])
async def test_the_outbox_is_what_the_relay_should_have_published(
    world: World, dedicated: DedicatedConnection, *, paused: bool
) -> None:
    await world.enqueue(2)
    await world.sql.execute("UPDATE tasks SET publish_at = now() - interval '40 seconds'")
    await world.sql.execute("UPDATE queue_set SET paused = $1", paused)
    found = await backlog.look(dedicated)
    assert found.outbox == (0 if paused else 2)
    assert 40 <= found.outbox_lag_seconds + (40 if paused else 0) < 100


async def test_what_failed_waits_for_a_person_and_its_copy_for_the_broker(
    world: World, dedicated: DedicatedConnection
) -> None:
    first, _ = await world.failed(), await world.failed()
    await world.dead_letter({first: await world.version(first)})
    found = await backlog.look(dedicated)
    assert (found.failed, found.dead_letters_due) == (2, 1)


async def test_workers_are_alive_or_expired_until_they_are_reaped(world: World, dedicated: DedicatedConnection) -> None:
    await world.worker()
    await world.expire(await world.worker())
    found = await backlog.look(dedicated)
    assert (found.workers_alive, found.workers_expired) == (1, 1)


async def test_a_look_reads_no_more_than_it_counts(world: World) -> None:
    await world.sql.execute("SET statement_timeout = 0")
    await world.sql.execute(FILL, 40_000, timeout=120)
    await world.sql.execute("ANALYZE tasks")
    before = await access(world)
    for name in ("backlog_queues", "backlog_totals"):
        await world.sql.fetch(query(name), 100)
    after = await access(world)
    assert after["seq_scan"] == before["seq_scan"]
    assert after["idx_tup_fetch"] - before["idx_tup_fetch"] <= 10 * 100


async def test_a_queue_counts_what_is_due_and_unclaimed_wherever_its_message_is(world: World, dsn: str) -> None:
    confirmed, unpublished, blocked, running, later = await world.enqueue(5)
    await world.confirm({confirmed: await world.version(confirmed)})
    await world.sql.execute("UPDATE tasks SET publish_at = now() + interval '10 s' WHERE id = $1", unpublished)
    await world.sql.execute("UPDATE tasks SET blocked_on = 'x' WHERE id = $1", blocked)
    await world.claim(await world.worker(), running)
    await world.sql.execute(
        "UPDATE tasks SET run_at = now() + interval '1 hour', publish_at = now() + interval '1 hour' WHERE id = $1",
        later,
    )
    async with Database(dsn, name="test") as database:
        assert await backlog.waiting(database, "default", [QUEUE, "other"]) == {QUEUE: 2, "other": 0}


async def test_counting_a_queue_reads_no_more_than_its_bound_whatever_waits_elsewhere(world: World) -> None:
    await world.sql.execute(FILL, 4_000)
    await world.sql.execute("UPDATE tasks SET queue = 'other' WHERE needs_publish IS NOT NULL AND ctid > '(1,1)'")
    await world.sql.execute("ANALYZE tasks")
    before = await access(world)
    rows = await world.sql.fetch(query("queue_backlog"), [QUEUE, "other"], "default", 100)
    after = await access(world)
    assert {row["queue"]: row["waiting"] for row in rows}["other"] == 100
    assert after["seq_scan"] == before["seq_scan"]
    assert after["idx_tup_fetch"] - before["idx_tup_fetch"] <= 2 * 100 + 20

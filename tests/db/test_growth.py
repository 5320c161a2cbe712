"""Growth: what a worker has run, what is kept and what waits costs nothing to those who look for something else."""

import math
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import pytest
import pytest_asyncio
from uuid_utils.compat import uuid7

from dtq.domain.catalog import Catalog
from dtq.domain.errors import Unavailable
from dtq.domain.states import TaskStatus
from dtq_db import catalog, maintenance, pages, references
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.pages import FailedFilter, TaskFilter
from dtq_db.queries import query
from dtq_maintenance.due import REST_SECONDS, DueCache
from tests.db.test_statements import access
from tests.db.test_upkeep import lost
from tests.db.world import TYPE, World, ending

HISTORY = 20_000
FINISHED = """
INSERT INTO tasks (id, type, queue, status, payload, attempts, worker_id, updated_at)
SELECT dtq_first_id(now() - make_interval(secs => n)), $2, 'default', 'SUCCEEDED', '{}', 1, $3, now()
FROM generate_series(1, $1) n
"""


@pytest_asyncio.fixture(loop_scope="session")
async def database(dsn: str) -> AsyncIterator[Database]:
    async with Database(dsn, name="test") as database:
        yield database


@pytest_asyncio.fixture(loop_scope="session")
async def dedicated(database: Database) -> DedicatedConnection:
    return database.dedicated("test")


async def history(world: World, *, count: int = HISTORY, type_: str = TYPE, worker: UUID | None = None) -> None:
    """Have many finished tasks, made in the past."""
    await world.sql.execute("SET statement_timeout = 0")
    await world.sql.execute(FINISHED, count, type_, worker or uuid4(), timeout=120)


async def enqueued(world: World, count: int, **how: object) -> list[UUID]:
    """Enqueue tasks with ids as the API makes them; oldest first."""
    return await world.enqueue(ids=[uuid7() for _ in range(count)], **how)  # type: ignore[arg-type]


async def test_what_a_lost_worker_runs_is_found_whatever_it_has_run(
    world: World, dedicated: DedicatedConnection
) -> None:
    worker, id_ = await world.running()
    await history(world, worker=worker)
    await world.sql.execute("ANALYZE tasks")
    await world.expire(worker)
    before = await access(world)
    held = await world.sql.fetch(query("worker_running"), worker, maintenance.BATCH)
    after = await access(world)
    assert [row["id"] for row in held] == [id_]
    assert after["seq_scan"] == before["seq_scan"]
    assert after["idx_tup_fetch"] - before["idx_tup_fetch"] <= 10
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": 1}, True)


async def test_a_renewal_forgets_the_claims_that_have_ended_and_keeps_the_others(
    world: World, dedicated: DedicatedConnection
) -> None:
    worker, kept = await world.worker(), await world.one()
    await world.claim(worker, kept)
    for _ in range(20):
        ids = await world.enqueue(2)
        won = await world.claim(worker, *ids)
        await world.finish(*(ending(worker, id_, won[id_], TaskStatus.SUCCEEDED) for id_ in ids))
    claims = "SELECT count(*), sum(cardinality(task_ids)) FROM worker_claims WHERE worker_id = $1"
    assert tuple(await world.sql.fetchrow(claims, worker) or ()) == (21, 41)
    assert (await world.renew(worker))[0]
    assert tuple(await world.sql.fetchrow(claims, worker) or ()) == (1, 1)
    await world.expire(worker)
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": 1}, True)
    assert (await world.row(kept))["status"] == "ENQUEUED"
    assert await world.sql.fetchval("SELECT count(*) FROM worker_claims") == 0


async def test_a_large_claim_is_held_in_full(world: World, dedicated: DedicatedConnection) -> None:
    ids, worker = await world.enqueue(350), await world.worker()
    await world.claim(worker, *ids)
    for _ in range(18):  # enough batches for a renewal to put them together
        (id_,) = await world.enqueue(1)
        await world.claim(worker, id_)
        await world.release(worker, id_)
    await world.renew(worker)
    await world.expire(worker)
    assert await maintenance.reap(dedicated, lost) == ({"ENQUEUED": 350}, True)


async def test_a_pruner_with_nothing_to_drop_reads_no_task(world: World, dedicated: DedicatedConnection) -> None:
    await history(world)
    while (await maintenance.prune(dedicated))[1]:
        """The first walk learns when the first retention is over."""
    before = await access(world)
    row = await world.sql.fetchrow(query("task_prune"), maintenance.BATCH)
    after = await access(world)
    assert row is not None
    assert (row["dropped"], row["more"]) == (0, False)
    assert after["idx_tup_fetch"] == before["idx_tup_fetch"]


async def test_a_slice_is_walked_again_when_its_first_retention_may_be_over(
    world: World, dedicated: DedicatedConnection
) -> None:
    (id_,) = await enqueued(world, 1)
    worker = await world.worker()
    await world.claim(worker, id_)
    await world.finish(ending(worker, id_, 1, TaskStatus.SUCCEEDED))
    assert await maintenance.prune(dedicated) == (0, False)
    due = "SELECT extract(epoch FROM look_at - now()) / 86400 FROM prune_slice"
    assert 7 <= float(await world.sql.fetchval(due)) <= 7.8
    await world.sql.execute("UPDATE task_type SET retention_succeeded_seconds = 3600")
    assert float(await world.sql.fetchval(due)) * 24 <= 1.2, "a shorter retention is not waited out"
    await world.sql.execute("UPDATE tasks SET updated_at = now() - interval '2 hours'")
    assert await maintenance.prune(dedicated) == (0, False), "not yet"
    await world.sql.execute("UPDATE prune_slice SET look_at = now()")
    assert await maintenance.prune(dedicated) == (1, False)


async def test_slices_cover_every_id_and_empty_ones_are_joined(world: World, dedicated: DedicatedConnection) -> None:
    for hour in range(3):
        await world.sql.execute("UPDATE prune_slice SET opened_at = opened_at - interval '2 hours'")
        await enqueued(world, 2)
        await maintenance.prune(dedicated)
        assert await world.sql.fetchval("SELECT count(*) FROM prune_slice") == hour + 2
    await world.sql.execute("UPDATE tasks SET status = 'SUCCEEDED', needs_publish = NULL, publish_at = NULL")
    await world.sql.execute("UPDATE tasks SET updated_at = now() - interval '8 days'")
    await enqueued(world, 1)
    await world.sql.execute("UPDATE prune_slice SET look_at = now()")
    dropped = 0
    for _ in range(4):
        dropped += (await maintenance.prune(dedicated))[0]
    assert dropped == 6
    assert await world.sql.fetchval("SELECT count(*) FROM prune_slice") == 2, "the first and the open one"
    assert await world.sql.fetchval("SELECT min(first_id) FROM (SELECT first_id::text FROM prune_slice) s") == str(
        UUID(int=0)
    )


async def test_a_task_that_runs_again_while_it_is_pruned_stays(world: World, dedicated: DedicatedConnection) -> None:
    id_ = await world.failed()
    await world.sql.execute("UPDATE tasks SET updated_at = now() - interval '31 days'")
    await world.redrive(id_)
    assert await maintenance.prune(dedicated) == (0, False)
    assert (await world.row(id_))["status"] == "ENQUEUED"


@pytest.mark.parametrize("status", ["FAILED", "CANCELLED", "RUNNING", "ENQUEUED", "SUCCEEDED", None])
async def test_a_list_finds_a_rare_status_among_many_tasks(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch, *, status: str | None
) -> None:
    monkeypatch.setattr(pages, "LOOK_MAX", 100)
    rare = await world.failed(ids=[uuid7()])
    cancelled, waiting = await enqueued(world, 2)
    await world.cancel(cancelled)
    _, running = await world.running(ids=[uuid7()])
    await history(world, count=1_000)  # older than they by id
    ids = {"FAILED": rare, "CANCELLED": cancelled, "RUNNING": running, "ENQUEUED": waiting}
    page = await pages.page(database, TaskFilter(status=status), 3)
    found = [row["id"] for row in page.rows]
    if status is None:
        assert found == [running, waiting, cancelled]
    elif status in ids:
        assert found == [ids[status]]
        assert page.next is None
    else:
        assert len(found) == 3
        assert page.next == found[-1]


async def test_a_filter_that_fits_little_gives_short_pages_that_go_on_to_the_end(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_MAX", 100)
    await world.declare("rare.v1")
    await history(world, count=350)
    await world.sql.execute("UPDATE tasks SET type = 'rare.v1' WHERE id IN (SELECT id FROM tasks ORDER BY id LIMIT 2)")
    chosen, seen, looks = TaskFilter(type="rare.v1"), [], 0
    while True:
        page = await pages.page(database, chosen, 10)
        seen += [row["id"] for row in page.rows]
        looks += 1
        if page.next is None:
            break
        chosen = TaskFilter(type="rare.v1", after=page.next)
    assert (len(seen), looks) == (2, 4)


async def test_more_that_wait_than_one_look_holds_are_listed_newest_first(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_MAX", 10)
    ids = await enqueued(world, 25)
    chosen, seen = TaskFilter(status="ENQUEUED"), []
    while True:
        page = await pages.page(database, chosen, 4)
        seen += [row["id"] for row in page.rows]
        if page.next is None:
            break
        chosen = TaskFilter(status="ENQUEUED", after=page.next)
    assert seen == ids[::-1]


async def test_a_redrive_by_filter_looks_beyond_one_page(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOK_MAX", 2)
    failed = [await world.failed() for _ in range(5)]
    await world.sql.execute("UPDATE tasks SET queue = 'high' WHERE id = $1", failed[-1])
    assert await pages.failed(database, FailedFilter(queue="high"), 10) == [failed[-1]]
    assert await pages.failed(database, FailedFilter(type=TYPE), 4) == failed[:4]
    monkeypatch.setattr(pages, "FAILED_SECONDS", -1.0)
    with pytest.raises(Unavailable, match="filter by type"):
        await pages.failed(database, FailedFilter(queue="high"), 10)


async def test_a_search_for_tasks_of_a_type_goes_on_where_it_stopped(
    world: World, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.declare("gone.v1", active=False)
    await history(world, count=50)
    monkeypatch.setattr(references, "STEP", 10)
    monkeypatch.setattr(references, "SEARCH_SECONDS", 0.0)
    shares = []
    for _ in range(10):
        found = await references.search(database, "gone.v1", is_inactive=True)
        assert found is not None
        assert not found.found
        shares.append(found.share)
        if found.is_complete:
            break
        monkeypatch.setattr(references, "SEARCH_SECONDS", 0.02)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)
    await world.sql.execute(query("task_type_delete"), "gone.v1")
    assert await world.sql.fetchval("SELECT count(*) FROM task_type WHERE type = 'gone.v1'") == 0


async def test_a_type_that_is_active_again_is_not_deleted_by_an_old_search(world: World, database: Database) -> None:
    await world.sql.execute("UPDATE task_type SET active = false")
    found = await references.search(database, TYPE, is_inactive=True)
    assert found is not None
    assert found.is_complete
    await world.sql.execute("UPDATE task_type SET active = true")
    await world.sql.execute(query("task_type_delete"), TYPE)
    assert await world.sql.fetchval("SELECT count(*) FROM task_type") == 1


async def test_a_catalog_reads_only_what_has_changed(world: World, database: Database) -> None:
    for number in range(5):
        await world.declare(f"some-{number}.v1")
    first = await catalog.load(database, Catalog())
    assert len(first.types) == 6
    assert await catalog.load(database, first) is first
    await world.sql.execute("UPDATE task_type SET default_queue = 'high' WHERE type = 'some-1.v1'")
    second = await catalog.load(database, first)
    assert second.types["some-1.v1"].queue == "high"
    assert all(second.types[name] is first.types[name] for name in first.types if name != "some-1.v1")
    assert second.queue_sets is first.queue_sets
    await world.sql.execute("DELETE FROM task_type WHERE type = 'some-2.v1'")
    await world.sql.execute("UPDATE queue_set SET paused = true")
    third = await catalog.load(database, second)
    assert third.types.keys() == first.types.keys() - {"some-2.v1"}
    assert third.queue_sets["default"].paused


async def test_what_there_is_to_do_is_known_from_one_look(world: World, dedicated: DedicatedConnection) -> None:
    work = await maintenance.look(dedicated)
    assert not work.is_relay_due()
    assert not work.reap
    assert not work.fire
    await world.one()
    worker, _ = await world.running()
    await world.expire(worker)
    work = await maintenance.look(dedicated)
    assert work.publish
    assert work.reap
    await world.sql.execute("UPDATE queue_set SET paused = true")
    assert not (await maintenance.look(dedicated)).publish


DEAD_LETTER = """
UPDATE tasks SET status = 'FAILED', needs_publish = NULL, publish_at = NULL, failed_at = now(),
    dead_letter_at = now() + interval '40 seconds'
"""
NEXT = {
    "nothing is planned": (None, "SELECT 1"),
    "a task": (40, "UPDATE tasks SET needs_publish = true, publish_at = now() + interval '40 seconds'"),
    "a task of a paused set": (None, "UPDATE queue_set SET paused = true"),
    "a dead letter": (45, DEAD_LETTER),
    "a lease": (40, ("INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)"
                    " VALUES (gen_random_uuid(), 'w', '{}', '{}', 1, now() + interval '40 seconds')")),
    "a cron entry": (40, ("INSERT INTO schedule (type, name, cron, timezone, payload, next_fire_at)"
                         " SELECT type, 'n', '* * * * *', 'UTC', '{}', now() + interval '40 seconds' FROM task_type")),
}  # fmt: skip
"""In how many seconds the next work is due after a statement."""


@pytest.mark.parametrize("what", NEXT)
async def test_one_look_tells_when_the_next_work_is_due(
    world: World, dedicated: DedicatedConnection, what: str
) -> None:
    seconds, statement = NEXT[what]
    await world.one()
    await world.sql.execute("UPDATE tasks SET needs_publish = false")
    if what == "a task of a paused set":
        await world.sql.execute(NEXT["a task"][1])
    await world.sql.execute(statement)
    work = await maintenance.look(dedicated)
    assert not any((work.is_relay_due(), work.reap, work.fire))
    if seconds is None:
        assert (work.next_seconds, work.quiet_seconds) == (None, math.inf)
    else:
        assert work.next_seconds == work.quiet_seconds == pytest.approx(seconds, abs=10)


async def test_a_loop_pauses_longer_only_while_nothing_is_due_soon(world: World, database: Database) -> None:
    due = DueCache(database)
    assert due.pause_seconds(0.5) == 0.5, "nothing is known yet"
    await due.look()
    assert due.pause_seconds(0.5) == REST_SECONDS
    await world.one()
    await world.sql.execute("UPDATE tasks SET publish_at = now() + interval '0.8 seconds'")
    due.forget()
    await due.look()
    assert 0.5 <= due.pause_seconds(0.5) <= 0.8
    await world.sql.execute("UPDATE tasks SET publish_at = now()")
    due.forget()
    assert (await due.look()).publish
    assert due.pause_seconds(0.5) == 0.5
    await world.sql.execute("UPDATE tasks SET needs_publish = false, blocked_on = 'slot'")
    due.forget()
    await due.look()
    assert due.pause_seconds(0.5) == 0.5, "no time is known at which there will be room"

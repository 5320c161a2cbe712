"""Suspects: what a lost worker leaves behind runs alone, and only what runs alone is charged."""

import pytest

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import CRASHES_MAX, decide
from dtq.domain.states import TaskStatus
from dtq_db import maintenance
from dtq_db.attempts import Completion
from dtq_db.connections import Database
from dtq_db.maintenance import OrphanedTask
from tests.db.world import TYPE, World, ending


def lost(held: OrphanedTask) -> Completion:
    decision = decide(held.ended, Backoff(delays_seconds=(0.0,)), 0.0)
    return Completion(worker_id=held.worker_id, id=held.id, attempt=held.ended.attempt, decision=decision)


async def reap(dsn: str) -> None:
    async with Database(dsn, name="test") as database:
        while (await maintenance.reap(database.dedicated("reaper"), lost))[1]:
            pass


async def test_only_the_suspect_that_ran_alone_is_charged(world: World, dsn: str) -> None:
    ids, worker = await world.enqueue(7, max_attempts=1), await world.worker()
    await world.claim(worker, *ids)
    await world.expire(worker)
    await reap(dsn)
    for id_ in ids:
        row = await world.row(id_)
        assert (row["status"], row["attempts"], row["max_attempts"], row["crashes"]) == ("ENQUEUED", 1, 2, 0)
        assert row["suspected_at"] is not None
        assert row["run_at"] <= await world.now(), "it need not wait"
    second = await world.worker()
    assert await world.claim(second, *ids) == dict.fromkeys(ids, 2)
    assert await world.run_alone(second, ids[0], 2)
    await world.expire(second)
    await reap(dsn)
    culprit, *innocents = [await world.row(id_) for id_ in ids]
    assert (culprit["status"], culprit["attempts"], culprit["crashes"]) == ("FAILED", 2, 1)
    assert "while it ran this task, alone" in culprit["last_error"]
    assert {(row["status"], row["max_attempts"], row["crashes"]) for row in innocents} == {("ENQUEUED", 3, 0)}


async def test_a_task_is_charged_up_to_the_budget_and_then_fails(world: World, dsn: str) -> None:
    id_ = await world.one(max_attempts=20)
    for attempt in range(1, CRASHES_MAX + 2):
        worker = await world.worker()
        await world.sql.execute("UPDATE tasks SET run_at = now() WHERE id = $1", id_)
        assert await world.claim(worker, id_) == {id_: attempt}
        assert await world.run_alone(worker, id_, attempt) is (attempt > 1), "only a suspect runs alone"
        await world.expire(worker)
        await reap(dsn)
        assert (await world.row(id_))["crashes"] == attempt - 1
    row = await world.row(id_)
    assert (row["status"], row["suspected_at"], row["alone_at"]) == ("FAILED", None, None)


async def test_the_fence_holds_for_a_run_alone(world: World, dsn: str) -> None:
    id_, worker = await world.suspect(reap=lambda: reap(dsn)), await world.worker()
    await world.claim(worker, id_)
    assert not await world.run_alone(worker, id_, 1)
    assert not await world.run_alone(await world.worker(), id_, 2)
    assert await world.run_alone(worker, id_, 2)
    assert await world.run_alone(worker, id_, 2), "asking again after a lost answer is safe"


@pytest.mark.parametrize(
    ("status", "drained", "still"),
    [
        (TaskStatus.SUCCEEDED, False, False),
        (TaskStatus.FAILED, False, False),
        (TaskStatus.CANCELLED, False, False),
        (TaskStatus.ENQUEUED, False, False),
        (TaskStatus.ENQUEUED, True, True),
    ],
    ids=["succeeded", "failed", "cancelled", "retried", "drained"],
)
async def test_an_attempt_that_ends_by_itself_ends_the_suspicion(
    world: World, dsn: str, status: TaskStatus, *, drained: bool, still: bool
) -> None:
    id_, worker = await world.suspect(reap=lambda: reap(dsn)), await world.worker()
    await world.claim(worker, id_)
    await world.run_alone(worker, id_, 2)
    assert await world.finish(ending(worker, id_, 2, status, drained=drained, error="boom"))
    row = await world.row(id_)
    assert (row["suspected_at"] is not None, row["alone_at"]) == (still, None)
    if status is TaskStatus.FAILED:
        await world.redrive(id_)
        assert (await world.row(id_))["suspected_at"] is None


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_suspect_that_is_released_stays_one_unless_it_was_cancelled(
    world: World, dsn: str, *, cancelled: bool
) -> None:
    id_, worker = await world.suspect(reap=lambda: reap(dsn)), await world.worker()
    await world.claim(worker, id_)
    if cancelled:
        await world.cancel(id_)
    await world.release(worker, id_)
    row = await world.row(id_)
    assert (row["status"], row["suspected_at"] is None) == ("CANCELLED" if cancelled else "ENQUEUED", cancelled)


async def test_a_suspect_that_waits_can_be_cancelled(world: World, dsn: str) -> None:
    id_ = await world.suspect(reap=lambda: reap(dsn))
    assert await world.cancel(id_) == ("CANCELLED", True)
    assert (await world.row(id_))["suspected_at"] is None


async def test_a_claim_says_what_is_a_suspect(world: World, dsn: str) -> None:
    id_, other, worker = await world.suspect(reap=lambda: reap(dsn)), await world.one(), await world.worker()
    rows = await world.sql.fetch("SELECT * FROM dtq_claim($1, $2, $3, 1)", worker, [id_, other], [TYPE])
    seconds = {row["id"]: row["suspected_seconds"] for row in rows}
    assert seconds[other] is None
    assert 0 <= seconds[id_] < 60


async def test_the_reason_names_the_oom_killer_when_another_worker_of_the_group_has_seen_it(
    world: World, dsn: str
) -> None:
    id_ = await world.suspect(reap=lambda: reap(dsn))
    memory = '{"group": "g", "limit_bytes": 268435456, "used_bytes": 1, "oom_kills": %d}'
    worker, successor = await world.worker(memory=memory % 0), await world.worker(memory=memory % 1)
    await world.claim(worker, id_)
    await world.run_alone(worker, id_, 2)
    await world.expire(worker)
    await reap(dsn)
    error = (await world.row(id_))["last_error"]
    assert "the kernel's OOM killer killed it at its memory limit of 256 MiB" in error
    assert "resources.limits.memory" in error
    assert (await world.renew(successor))[0]

"""Two connections meet at one row: whatever the order, one wins and the other is told the truth."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import asyncpg
import pytest

from dtq.domain.states import TaskStatus
from dtq_db.attempts import LEASE_GONE
from dtq_db.queries import query
from tests.db.world import World, blocked, ending

MakeWorld = Callable[[], Awaitable[World]]


async def test_one_of_two_workers_that_claim_the_same_task_wins(world: World, another: MakeWorld) -> None:
    id_, first, second = await world.one(), await world.worker(), await world.worker()
    other = await another()
    async with world.sql.transaction():
        assert await world.claim(first, id_) == {id_: 1}
        loser = asyncio.ensure_future(other.claim(second, id_))
        await blocked(await another(), other)
    assert await loser == {}
    assert (await world.row(id_))["worker_id"] == first


async def test_a_claim_storm_runs_every_task_exactly_once(world: World, another: MakeWorld) -> None:
    ids = await world.enqueue(60)
    worlds = [await another() for _ in range(6)]
    workers = [await world.worker() for _ in worlds]
    won = await asyncio.gather(*(world.claim(worker, *ids) for world, worker in zip(worlds, workers, strict=True)))
    assert sorted(id_ for part in won for id_ in part) == sorted(ids)
    assert await world.sql.fetchval("SELECT count(*) FROM task_events WHERE event = 'RUNNING'") == len(ids)


async def test_a_claim_that_began_before_its_lease_was_reaped_is_refused(world: World, another: MakeWorld) -> None:
    # Otherwise a task would run for a worker that no reaper looks at any more, and would be lost.
    id_, worker = await world.one(), await world.worker()
    late = await another()
    transaction = late.sql.transaction()
    await transaction.start()
    await late.sql.fetchval("SELECT now()")
    await world.sql.execute("UPDATE workers SET lease_expires_at = clock_timestamp() WHERE id = $1", worker)
    assert await world.sql.fetch(query("worker_expired_lock"))
    await world.sql.execute(query("worker_reaped"), worker)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await late.claim(worker, id_)
    assert caught.value.sqlstate == LEASE_GONE
    await transaction.rollback()


async def test_a_claim_that_meets_the_reaper_is_refused(world: World, another: MakeWorld) -> None:
    id_, worker = await world.one(), await world.worker()
    late, reaper = await another(), await another()
    begun = late.sql.transaction()
    await begun.start()
    await late.sql.fetchval("SELECT now()")
    await world.sql.execute("UPDATE workers SET lease_expires_at = clock_timestamp() WHERE id = $1", worker)
    async with reaper.sql.transaction():
        await reaper.sql.fetch(query("worker_expired_lock"))
        claiming = asyncio.ensure_future(late.claim(worker, id_))
        await reaper.sql.execute(query("worker_reaped"), worker)
    with pytest.raises(asyncpg.PostgresError) as caught:
        await claiming
    assert caught.value.sqlstate == LEASE_GONE
    await begun.rollback()


async def test_a_reaper_passes_over_a_worker_whose_claim_is_under_way(world: World, another: MakeWorld) -> None:
    id_, worker = await world.one(), await world.worker()
    reaper = await another()
    async with world.sql.transaction():
        await world.claim(worker, id_)
        await reaper.sql.execute("SET lock_timeout = 100")
        assert not await reaper.sql.fetch("SELECT id FROM workers WHERE id = $1 FOR UPDATE SKIP LOCKED", worker)


async def test_a_renewal_that_meets_the_reaper_finds_the_lease_gone(world: World, another: MakeWorld) -> None:
    worker = await world.worker()
    late, reaper = await another(), await another()
    begun = late.sql.transaction()
    await begun.start()
    await late.sql.fetchval("SELECT now()")
    await world.sql.execute("UPDATE workers SET lease_expires_at = clock_timestamp() WHERE id = $1", worker)
    async with reaper.sql.transaction():
        assert await reaper.sql.fetch(query("worker_expired_lock"))
        renewing = asyncio.ensure_future(late.renew(worker))
        await reaper.sql.execute(query("worker_reaped"), worker)
    assert await renewing == (False, [])
    await begun.rollback()


async def test_a_cancellation_that_meets_a_claim_is_still_a_request(world: World, another: MakeWorld) -> None:
    id_, worker = await world.one(), await world.worker()
    other = await another()
    async with world.sql.transaction():
        await world.claim(worker, id_)
        cancelling = asyncio.ensure_future(other.cancel(id_))
        await blocked(await another(), other)
    assert await cancelling == ("RUNNING", True)
    assert (await world.renew(worker))[1] == [id_]


async def test_a_cancellation_that_meets_a_retry_takes_effect(world: World, another: MakeWorld) -> None:
    worker, id_ = await world.running()
    other = await another()
    async with world.sql.transaction():
        await world.finish(ending(worker, id_, 1, TaskStatus.ENQUEUED))
        cancelling = asyncio.ensure_future(other.cancel(id_))
        await blocked(await another(), other)
    assert await cancelling == ("CANCELLED", True)


async def test_a_cancellation_that_meets_a_success_is_told_so(world: World, another: MakeWorld) -> None:
    worker, id_ = await world.running()
    other = await another()
    async with world.sql.transaction():
        await world.finish(ending(worker, id_, 1, TaskStatus.SUCCEEDED))
        cancelling = asyncio.ensure_future(other.cancel(id_))
        await blocked(await another(), other)
    assert await cancelling == ("SUCCEEDED", False)


async def test_a_finish_that_meets_a_cancellation_heeds_it(world: World, another: MakeWorld) -> None:
    worker, id_ = await world.running()
    other = await another()
    async with world.sql.transaction():
        assert await world.cancel(id_) == ("RUNNING", True)
        finishing = asyncio.ensure_future(other.finish(ending(worker, id_, 1, TaskStatus.ENQUEUED)))
        await blocked(await another(), other)
    assert await finishing == {id_: "CANCELLED"}


async def test_a_replay_that_meets_an_undo_finds_nothing_rather_than_a_conflict(
    world: World, another: MakeWorld
) -> None:
    id_ = await world.one(keys=["k"])
    other = await another()
    async with world.sql.transaction():
        assert await world.undo(id_) == {id_}
        replaying = asyncio.ensure_future(other.replay("k"))
        await blocked(await another(), other)
    assert await replaying == []


async def test_an_undo_that_meets_a_replay_leaves_the_task(world: World, another: MakeWorld) -> None:
    id_ = await world.one(keys=["k"])
    other = await another()
    async with world.sql.transaction():
        assert (await world.replay("k"))[0]["same"]
        undoing = asyncio.ensure_future(other.undo(id_))
        await blocked(await another(), other)
    assert await undoing == set()
    assert (await world.row(id_))["replays"] == 1


async def test_an_undo_that_meets_a_claim_leaves_the_task(world: World, another: MakeWorld) -> None:
    id_, worker = await world.one(), await world.worker()
    other = await another()
    async with world.sql.transaction():
        await world.claim(worker, id_)
        undoing = asyncio.ensure_future(other.undo(id_))
        await blocked(await another(), other)
    assert await undoing == set()


async def test_a_confirm_that_meets_a_claim_leaves_the_task_alone(world: World, another: MakeWorld) -> None:
    id_, worker = await world.one(), await world.worker()
    version = await world.version(id_)
    other = await another()
    async with world.sql.transaction():
        await world.claim(worker, id_)
        confirming = asyncio.ensure_future(other.confirm({id_: version}))
        await blocked(await another(), other)
    assert await confirming == 0
    assert (await world.row(id_))["needs_publish"] is None


async def test_parallel_storms_on_the_same_rows_never_deadlock(world: World, another: MakeWorld) -> None:
    ids = await world.enqueue(80)
    worlds = [await another() for _ in range(6)]
    workers = [await world.worker() for _ in worlds]

    async def storm(one: World, turn: int) -> None:
        mixed = ids[turn * 7 :] + ids[: turn * 7]
        for _ in range(4):
            won = await one.claim(workers[turn], *mixed)
            versions = {row["id"]: row["updated_at"] for row in await one.sql.fetch("SELECT * FROM tasks")}
            await one.confirm(dict(reversed(versions.items())))
            half = [ending(workers[turn], id_, number, TaskStatus.ENQUEUED) for id_, number in won.items()]
            await one.finish(*half[::2])
            await one.release(workers[turn], *(end.id for end in reversed(half[1::2])))
            await one.relay(limit=30)
            await one.undo(*reversed(mixed))
            await one.lost()

    await asyncio.gather(*(storm(world, turn) for turn, world in enumerate(worlds)))


async def test_batches_with_the_same_keys_in_another_order_never_deadlock(world: World, another: MakeWorld) -> None:
    keys = [f"key-{number:02}" for number in range(40)]
    worlds = [await another() for _ in range(6)]
    orders = [keys[turn * 5 :] + keys[: turn * 5] if turn % 2 else keys[::-1] for turn in range(len(worlds))]
    stored = await asyncio.gather(
        *(world.enqueue(ids=[uuid4() for _ in order], keys=order) for world, order in zip(worlds, orders, strict=True))
    )
    assert sum(map(len, stored)) == len(keys)
    assert await world.sql.fetchval("SELECT count(*) FROM tasks") == len(keys)


async def test_many_posts_with_one_key_and_body_get_one_id(world: World, another: MakeWorld) -> None:
    worlds = [await another() for _ in range(8)]

    async def post(one: World) -> object:
        stored = await one.enqueue(keys=["k"], payload='{"a": 1}')
        return stored[0] if stored else (await one.replay("k", '{"a":1.0}'))[0]["id"]

    assert len({*await asyncio.gather(*(post(world) for world in worlds))}) == 1
    assert [(row["same"]) for row in await world.replay("k", '{"a": 2}')] == [False]

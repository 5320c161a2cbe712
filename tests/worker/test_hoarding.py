"""No worker keeps a message that it cannot start soon while another is free."""

import time
from collections import Counter

from tests.support.waiting import eventually
from tests.worker.world import World

HANDED_BACK_SECONDS = 15.0
"""Messages without a free slot are back in the queue, in seconds."""
RUN_SECONDS = 6.0
LATE_SECONDS = 2.0
BOUND_SECONDS = 27.0 - LATE_SECONDS
"""Four runs one after the other in the worker that comes late, and a second for all else."""


async def test_two_workers_share_what_waits_though_the_second_one_comes_late(world: World) -> None:
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker(WORKER_CONCURRENCY="1", QUEUES="default"):
        ids = await world.enqueue("w.wait.async", 8, seconds=RUN_SECONDS)
        await world.has(ids[0], "RUNNING")
        await world.rows.sql.execute("SELECT pg_sleep($1)", LATE_SECONDS)
        async with world.worker(WORKER_CONCURRENCY="1", QUEUES="default"):
            came_at = time.monotonic()
            rows = await world.ended(*ids, seconds=60)
            took = time.monotonic() - came_at
    assert {row["attempts"] for row in rows} == {1}
    assert sorted(Counter(row["worker_id"] for row in rows).values()) == [4, 4]
    assert took <= BOUND_SECONDS


async def test_a_message_does_not_wait_behind_a_long_run(world: World) -> None:
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker(WORKER_CONCURRENCY="1") as running:
        first, *rest = await world.enqueue("w.wait.async", 20, seconds=30)
        await world.has(first, "RUNNING")

        async def all_are_back() -> bool:
            return await world.ready() == len(rest)

        await eventually(all_are_back, "the broker has every message but the first", HANDED_BACK_SECONDS)
        assert await running.is_ready(), "a worker without room is as ready as any"
        running.worker.intake.cancel([first])
        await world.has(first, "CANCELLED")
        await eventually(
            lambda: has_one_more(world, len(rest)),
            "and it takes the next one as soon as it has room",
            HANDED_BACK_SECONDS,
        )
        for row in await world.rows.sql.fetch("SELECT id FROM tasks WHERE status = 'RUNNING'"):
            running.worker.intake.cancel([row["id"]])


async def test_a_worker_that_has_lost_its_lease_gives_back_what_it_cannot_claim(
    world: World, short_lease: float
) -> None:
    assert short_lease
    await world.declare("w.act.async")
    async with world.worker() as running:
        ids = await world.rows.enqueue(5, type_="w.act.async", payload='{"gives": "number"}')
        async with world.rows.sql.transaction():
            await world.rows.sql.execute("LOCK TABLE workers IN EXCLUSIVE MODE")

            async def has_no_lease() -> bool:
                return running.worker.lease.worker_id is None

            await eventually(has_no_lease, "the lease is over")
            await world.send_work(ids, "w.act.async")

            async def all_are_back() -> bool:
                return await world.ready() == len(ids)

            await eventually(all_are_back, "the broker has them", HANDED_BACK_SECONDS)
        assert {row["attempts"] for row in await world.ended(*ids)} == {1}


async def test_short_runs_widen_the_window_and_long_ones_never_do(world: World) -> None:
    await world.declare("w.act.async", "w.wait.async", timeout_seconds=60)
    async with world.worker(WORKER_CONCURRENCY="2", WORKER_PREFETCH="100") as running:
        await world.ended(*(await world.enqueue("w.wait.async", 4, seconds=1.5)))
        assert running.worker.consumer.window <= 2
    async with world.worker(WORKER_CONCURRENCY="2", WORKER_PREFETCH="100") as running:
        for _ in range(3):
            await world.ended(*(await world.enqueue("w.act.async", 20, gives="number")))
        assert running.worker.consumer.window == 100


async def has_one_more(world: World, waiting: int) -> bool:
    running = await world.rows.sql.fetchval("SELECT count(*) FROM tasks WHERE status = 'RUNNING'")
    return bool(running == 1 and await world.ready() in (waiting - 1, waiting - 2))

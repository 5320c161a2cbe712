"""The lease: who may finish a task, and what becomes of it when its worker cannot renew."""

import asyncio
from uuid import UUID

import pytest

from dtq.broker import messages
from dtq.domain.memory import Memory
from dtq.runtime.loops import wait
from dtq_worker import lease, memory
from tests.support.waiting import eventually
from tests.worker.world import NAMESPACE, Running, World


async def test_a_handler_that_blocks_the_event_loop_costs_no_lease(world: World, short_lease: float) -> None:
    await world.declare("w.block", timeout_seconds=60)
    async with world.worker() as running:
        before = running.worker.lease.worker_id
        (id_,) = await world.enqueue("w.block", seconds=2 * short_lease)
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"], row["worker_id"]) == ("SUCCEEDED", 1, before)
        assert running.count("dq_leases_lost_total") == 0


async def test_a_lease_that_was_lost_stops_its_handlers_and_another_attempt_succeeds(
    world: World, short_lease: float
) -> None:
    assert short_lease
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.wait.async", max_attempts=3, seconds=50)
        row = await world.has(id_, "RUNNING")
        await _lose(world, running)
        await eventually(lambda: _is_fenced(running), "the worker is fenced")
        await eventually(running.is_ready, "and has a new lease")
        assert running.worker.lease.worker_id != row["worker_id"]
        await _relay_until_ended(world, id_)
        row = await world.rows.row(id_)
        assert (row["status"], row["attempts"], row["crashes"]) == ("SUCCEEDED", 2, 0)
        await running.counted(1, "dq_tasks_finished_total", type="w.wait.async", outcome="succeeded")


async def test_a_result_that_comes_after_the_lease_is_dropped_and_counted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_RENEW_SECONDS", 10.0)
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.wait.async", max_attempts=3, seconds=3)
        await world.has(id_, "RUNNING")
        await _lose(world, running)

        async def is_dropped() -> bool:
            return running.count("dq_stale_finishes_total") == 1

        # The next renewal comes after 10 s: the handler ends before its worker knows.
        await eventually(is_dropped, "the result is dropped")
        assert running.count("dq_tasks_finished_total", type="w.wait.async", outcome="lost") == 1
        row = await world.rows.row(id_)
        assert (row["status"], row["result"]) == ("ENQUEUED", None)
        assert row["last_error"].startswith("worker lost: this task runs again alone")
        await _relay_until_ended(world, id_)
        assert (await world.rows.row(id_))["attempts"] == 2


async def test_nothing_is_claimed_without_a_lease(world: World, short_lease: float) -> None:
    assert short_lease
    await world.declare("w.act.async")
    async with world.worker() as running:
        ids = await world.rows.enqueue(1, type_="w.act.async", payload='{"gives": "number"}')
        async with world.rows.sql.transaction():
            await world.rows.sql.execute("LOCK TABLE workers IN EXCLUSIVE MODE")

            async def has_none() -> bool:
                return running.worker.lease.worker_id is None

            await eventually(has_none, "the lease is over")
            await world.send([messages.work(NAMESPACE, "default", id_, "w.act.async") for id_ in ids])
            assert not await running.is_ready(), "and the worker says so"
            assert (await world.rows.row(ids[0]))["attempts"] == 0
        (row,) = await world.ended(*ids)
        assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1)


async def test_a_worker_that_ends_gives_its_lease_back(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker() as running:
        worker_id = running.worker.lease.worker_id
    expired = await world.rows.sql.fetchval("SELECT lease_expires_at <= now() FROM workers WHERE id = $1", worker_id)
    assert expired is True


async def test_the_lease_reports_what_runs(world: World, short_lease: float) -> None:
    assert short_lease
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker() as running:
        ids = await world.enqueue("w.wait.async", 3, seconds=2)

        async def reported(count: int) -> bool:
            running_now = await world.rows.sql.fetchval(
                "SELECT (running ->> 'default/default')::integer FROM workers WHERE id = $1",
                running.worker.lease.worker_id,
            )
            return (running_now or 0) == count

        await eventually(lambda: reported(3), "the row says 3")
        await world.ended(*ids)
        await eventually(lambda: reported(0), "the row says none")


async def test_a_resting_worker_does_not_look_at_its_memory_until_a_task_starts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LEASE_RENEW_SECONDS", 10.0)
    looks, used_bytes = 0, 1

    def look() -> Memory:
        nonlocal looks
        looks += 1
        return Memory(group="test", limit_bytes=100, used_bytes=used_bytes, oom_kills=0)

    monkeypatch.setattr(memory, "look", look)
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker() as running:
        before = looks
        await wait(asyncio.Event(), 10 * lease.WATCH_SECONDS)
        assert looks == before
        used_bytes = 99
        (id_,) = await world.enqueue("w.wait.async", seconds=4)

        async def is_reported() -> bool:
            report = await world.rows.sql.fetchval(
                "SELECT memory ->> 'used_bytes' FROM workers WHERE id = $1", running.worker.lease.worker_id
            )
            return report is not None and int(report) == used_bytes

        await world.has(id_, "RUNNING")
        await eventually(is_reported, "the report does not wait for the next renewal", 3.0)
        await world.ended(id_)


async def test_only_bugs_end_the_thread_of_the_lease(world: World, short_lease: float) -> None:
    assert short_lease
    async with world.worker() as running:
        for _ in range(3):
            await world.rows.sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'dtq-worker/lease' AND datname = current_database()"
            )
            await eventually(running.is_ready, "the lease goes on")
        assert running.count("dq_leases_lost_total") == 0


async def _lose(world: World, running: Running) -> None:
    """Expire the lease in the database and take its tasks back, as another replica would."""
    worker_id = running.worker.lease.worker_id
    assert worker_id is not None
    await world.rows.expire(worker_id)
    while await world.reaper.once():
        pass


async def _relay_until_ended(world: World, id_: UUID) -> None:
    async def has_ended() -> bool:
        await world.relay.once()
        return bool((await world.rows.row(id_))["status"] in ("SUCCEEDED", "FAILED"))

    await eventually(has_ended, "the task has ended")


async def _is_fenced(running: Running) -> bool:
    return running.count("dq_leases_lost_total") == 1 and running.count("dq_tasks_running") == 0

"""Time-outs and cancels in every mode, and handlers that will not listen."""

import os
from pathlib import Path

import pytest

from dtq_worker import running as running_tasks
from tests.support.waiting import eventually
from tests.worker.world import World

MODES = ["async", "thread", "process"]


@pytest.mark.parametrize(("mode", "seconds"), [("async", 2), ("thread", 2), ("process", 10)])
async def test_a_handler_that_takes_too_long_is_stopped_and_retried(world: World, mode: str, seconds: int) -> None:
    await world.declare(f"w.wait.{mode}", timeout_seconds=seconds, backoff={"strategy": "Fixed", "delaySeconds": 1})
    async with world.worker() as running:
        (id_,) = await world.enqueue(f"w.wait.{mode}", max_attempts=2, seconds=60)
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"], row["result"]) == ("SUCCEEDED", 2, "2")
        assert running.count("dq_tasks_finished_total", type=f"w.wait.{mode}", outcome="timed_out") == 1
    notes = await world.rows.sql.fetch("SELECT note FROM task_events WHERE task_id = $1 AND event = 'RETRY'", id_)
    assert [row["note"] for row in notes] == [f"took longer than {seconds} s"]


@pytest.mark.parametrize("mode", MODES)
async def test_a_running_task_is_cancelled_at_the_next_renewal(world: World, mode: str) -> None:
    await world.declare(f"w.wait.{mode}", timeout_seconds=60)
    async with world.worker() as running:
        (id_,) = await world.enqueue(f"w.wait.{mode}", max_attempts=5, seconds=30)
        await world.has(id_, "RUNNING")
        assert await world.rows.cancel(id_) == ("RUNNING", True)
        row = await world.has(id_, "CANCELLED", seconds=15)
        assert (row["attempts"], row["last_error"]) == (1, "cancelled while it ran")
        await running.counted(1, "dq_tasks_finished_total", type=f"w.wait.{mode}", outcome="cancelled")


async def test_the_time_out_of_a_process_ends_all_that_it_started(world: World, tmp_path: Path) -> None:
    await world.declare("w.wait.process", timeout_seconds=5)
    pids = tmp_path / "pids"
    async with world.worker():
        (id_,) = await world.enqueue("w.wait.process", seconds=60, pids=str(pids))
        (row,) = await world.ended(id_)
        assert (row["status"], row["last_error"]) == ("FAILED", "took longer than 5 s")

        async def both_are_gone() -> bool:
            return not any(_is_alive(int(pid)) for pid in pids.read_text().split())

        await eventually(both_are_gone, "the child and its child are gone")


async def test_a_handler_that_swallows_its_cancellation_is_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running_tasks, "STOP_SECONDS", 0.5)
    await world.declare("w.stubborn", timeout_seconds=1)
    await world.declare("w.act.async")
    async with world.worker(WORKER_CONCURRENCY="1") as running:
        (id_,) = await world.enqueue("w.stubborn", seconds=6)
        (row,) = await world.ended(id_)
        assert (row["status"], row["last_error"]) == ("FAILED", "took longer than 1 s")
        assert running.worker.running.is_held_up, "it still runs"
        (next_,) = await world.enqueue("w.act.async", gives="number")
        assert (await world.ended(next_))[0]["status"] == "SUCCEEDED", "its slot is free"

        async def is_over() -> bool:
            return not running.worker.running.is_held_up

        await eventually(is_over, "it ended by itself, late")
        (row,) = await world.ended(id_)
        assert (row["status"], row["result"]) == ("FAILED", None), "and said nothing more"
        assert running.count("dq_stale_finishes_total") == 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False

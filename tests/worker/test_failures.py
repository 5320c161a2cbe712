"""What a failed task tells: a traceback of the handler alone, bounded, and a line in the log."""

import pytest
import structlog

from dtq.domain.limits import TRACEBACK_CHARS_MAX
from dtq_worker import attempt_log
from tests.support.waiting import eventually
from tests.worker.world import World

MODES = ["async", "thread", "process"]


async def test_a_failure_keeps_where_it_arose_in_every_mode(world: World) -> None:
    await world.declare()
    async with world.worker():
        for mode in MODES:
            (id_,) = await world.enqueue(f"w.act.{mode}", raises="plain")
            (row,) = await world.ended(id_)
            lines = row["last_traceback"].splitlines()
            assert lines[0] == "Traceback (most recent call last):"
            assert f"in act_{mode}" in lines[1], "no frame of dtq stands before the handler's"
            assert lines[-1] == "ValueError: plainly wrong"
            assert "dtq_worker" not in row["last_traceback"]


async def test_an_endless_recursion_leaves_a_bounded_traceback(world: World) -> None:
    await world.declare("w.recurse.thread")
    async with world.worker():
        (id_,) = await world.enqueue("w.recurse.thread")
        (row,) = await world.ended(id_)
    assert "RecursionError" in row["last_traceback"].splitlines()[-1]
    assert len(row["last_traceback"]) <= TRACEBACK_CHARS_MAX


async def test_a_success_after_a_failure_has_no_traceback(world: World) -> None:
    await world.declare("w.fail")
    async with world.worker():
        (id_,) = await world.enqueue("w.fail", max_attempts=2, times=1)

        async def has_failed_once() -> bool:
            return (await world.rows.row(id_))["last_traceback"] is not None

        await eventually(has_failed_once, "the first attempt left its traceback")
        row = await world.has(id_, "SUCCEEDED")
    assert (row["last_error"], row["last_traceback"]) == (None, None)


@pytest.mark.usefixtures("unconfigured_logs")
async def test_start_end_and_failure_are_logged_with_task_type_and_attempt(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.declare()
    # A logger that was used before keeps what it was configured with then.
    monkeypatch.setattr(attempt_log, "_log", structlog.get_logger())
    with structlog.testing.capture_logs() as lines:
        async with world.worker():
            (good,) = await world.enqueue("w.act.async", gives="number")
            (bad,) = await world.enqueue("w.act.thread", raises="plain")
            await world.ended(good, bad)
    told = [(line["event"], line["task_id"], line["attempt"]) for line in lines if line["event"].startswith("attempt ")]
    assert set(told) == {
        ("attempt started", str(good), 1),
        ("attempt ended", str(good), 1),
        ("attempt started", str(bad), 1),
        ("attempt failed", str(bad), 1),
    }
    (failure,) = [line for line in lines if line["event"] == "attempt failed"]
    assert (failure["type"], failure["error"]) == ("w.act.thread", "ValueError: plainly wrong")
    assert "in act_thread" in failure["traceback"]

"""What handlers leave behind: the next task does not trip over it, and the worker still ends when it is told to."""

import asyncio
import re

import pytest

from tests.support.waiting import eventually
from tests.worker.handlers.conftest import Street, ends

LEFT = [
    "logging configured anew",
    "thread left",
    "thread pool left open",
    "pool left open",
    "fork left running",
    "environment cleared",
]
LEFT_IN_THE_LOOP = ["subtasks left behind", "executor held", "signals ignored"]


async def test_a_worker_ends_in_time_whatever_handlers_left_behind(street: Street) -> None:
    await street.open()
    for mode, names in {"thread": LEFT, "process": LEFT, "async": LEFT_IN_THE_LOOP}.items():
        for name in names:
            row = await ends(street, f"kind.{mode}", 25, kind=name)
            assert row["status"] == "SUCCEEDED", (name, mode, row["last_error"])

    async def signals_are_restored() -> bool:
        return "signal handlers restored" in street.log()

    await eventually(signals_are_restored, "the worker has its signal handlers again")
    started_at = asyncio.get_running_loop().time()
    assert await street.stop() == 0, street.log()
    assert asyncio.get_running_loop().time() - started_at < 12
    assert "worker stopped" in street.log()


@pytest.mark.parametrize(
    "name", ["alarm left pending", "late exit", "files limited", "memory bomb", "folder left", "signal handler, alone"]
)
async def test_the_next_task_of_a_child_process_does_not_pay_for_the_last_one(street: Street, name: str) -> None:
    await street.open()
    await ends(street, "kind.process", 25, kind=name)
    row = await ends(street, "kind.process", 25, kind="two seconds")
    assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1), row["last_error"]


async def test_a_child_process_that_is_as_it_was_runs_the_next_task(street: Street) -> None:
    await street.open()
    pids = {(await ends(street, "kind.process", 25, kind="own pid"))["result"] for _ in range(3)}
    assert len(pids) == 1


async def test_a_child_process_that_is_not_is_replaced_and_the_log_says_why(street: Street) -> None:
    await street.open()
    before = (await ends(street, "kind.process", 25, kind="own pid"))["result"]
    await ends(street, "kind.process", 25, kind="thread left")
    assert (await ends(street, "kind.process", 25, kind="own pid"))["result"] != before
    assert re.search(r'"left": ?\["threads"\].*"child process replaced"', street.log()), street.log()


async def test_time_in_which_a_handler_blocked_the_loop_does_not_count_against_its_neighbours(street: Street) -> None:
    await street.open()
    neighbours = [id_ for mode in ("async", "thread") for id_ in await street.world.enqueue(f"quick.{mode}", 3)]
    for id_ in neighbours:
        await street.world.has(id_, "RUNNING", "SUCCEEDED")
    row = await ends(street, "kind.async", 25, kind="loop blocked")
    assert row["status"] == "SUCCEEDED"
    for row in await street.world.ended(*neighbours):
        assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1), row["last_error"]

"""Handlers that hang, crash, take the process down or return too much: each is an outcome, and the worker goes on."""

import asyncio
import ctypes
import os
import signal
import threading
from collections.abc import AsyncIterator
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from dtq.domain.limits import RESULT_BYTES_MAX
from dtq.domain.states import Outcome
from dtq.handlers import handler
from dtq_db.attempts import Claim
from dtq_worker.processes import Processes
from dtq_worker.registry import load
from dtq_worker.runner import Runner

MODULE: Final = "tests.faults.test_wild_handlers"
TIMEOUT_SECONDS: Final = 1
BOUND_SECONDS: Final = 60.0
"""Longest life of what hangs, in seconds; its attempt is long over by then."""


@handler("wild.hang.async.v1")
async def hang(_: Any) -> None:
    await asyncio.Event().wait()


@handler("wild.hang.thread.v1")
def hang_in_a_thread(_: Any) -> None:
    threading.Event().wait(BOUND_SECONDS)


@handler("wild.hang.process.v1", process=True)
def hang_in_a_process(_: Any) -> None:
    threading.Event().wait(BOUND_SECONDS)


@handler("wild.segfault.v1", process=True)
def read_nowhere(_: Any) -> None:
    ctypes.string_at(0)


@handler("wild.killed.v1", process=True)
def die_as_by_the_oom_killer(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@handler("wild.exit.v1")
def leave(_: Any) -> None:
    raise SystemExit(3)


@handler("wild.huge.v1")
def return_too_much(_: Any) -> str:
    return "x" * (RESULT_BYTES_MAX + 1)


@handler("wild.tame.v1", process=True)
def succeed(_: Any) -> str:
    return "fine"


@pytest_asyncio.fixture(loop_scope="session")
async def runner() -> AsyncIterator[Runner]:
    processes = Processes([MODULE], children_max=2)
    yield Runner(load([MODULE]), processes)
    await processes.close()


def a_claim(type_: str, timeout_seconds: int = 60) -> Claim:
    return Claim(
        id=uuid4(),
        type=type_,
        queue_set="default",
        queue="default",
        payload="{}",
        attempt=1,
        max_attempts=5,
        crashes=0,
        timeout_seconds=timeout_seconds,
        backoff=None,
    )


@pytest.mark.parametrize("where", ["async", "thread", "process"])
async def test_a_handler_that_hangs_is_given_up_at_its_time_out(runner: Runner, where: str) -> None:
    ended = await runner.run(a_claim(f"wild.hang.{where}.v1", TIMEOUT_SECONDS))
    assert ended.outcome is Outcome.TIMED_OUT
    assert ended.error == "took longer than 1 s"


@pytest.mark.parametrize(("type_", "number"), [("wild.segfault.v1", 11), ("wild.killed.v1", 9)])
async def test_a_handler_that_takes_its_process_down_has_failed_and_the_next_one_runs(
    runner: Runner, type_: str, number: int
) -> None:
    ended = await runner.run(a_claim(type_))
    assert ended.outcome is Outcome.FAILED
    assert ended.error is not None
    assert f"signal {number}" in ended.error
    assert (await runner.run(a_claim("wild.tame.v1"))).result == '"fine"'


async def test_a_handler_that_wants_to_leave_the_process_has_failed(runner: Runner) -> None:
    ended = await runner.run(a_claim("wild.exit.v1"))
    assert ended.outcome is Outcome.FAILED


async def test_a_result_that_is_too_large_fails_for_good(runner: Runner) -> None:
    ended = await runner.run(a_claim("wild.huge.v1"))
    assert (ended.outcome, ended.permanent) == (Outcome.FAILED, True)
    assert ended.error is not None
    assert "store it elsewhere" in ended.error

"""The processes that a handler leaves behind end with its child process, whatever session and parent they have."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.system import Process, System
from tests.support.waiting import eventually
from tests.worker.handlers.conftest import children
from tests.worker.world import World

ENDS = {"return": "SUCCEEDED", "crash": "FAILED", "hang": "FAILED", "disown": "SUCCEEDED"}


@pytest.fixture
def pid_file(tmp_path: Path) -> Iterator[Path]:
    """The file in which a daemon's pid is written; the daemon ends with the test."""
    yield (path := tmp_path / "daemon")
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(pid_in(path), signal.SIGKILL)


async def a_worker(world: World, system: System, *types: str) -> Process:
    """Start a worker that serves these types of the intruders."""
    await world.declare(*types, timeout_seconds=5)
    process = system.worker(WORKER_HANDLERS="tests.worker.handlers.intruders")
    await process.ready()
    return process


def pid_in(file: Path) -> int:
    """Return the pid that a daemon's handler wrote to a file."""
    return int(file.read_text())


async def is_gone(pid: int) -> None:
    """Wait until a process has ended and was reaped."""

    async def it_is() -> bool:
        return not Path(f"/proc/{pid}").exists()  # noqa: ASYNC240

    await eventually(it_is, f"process {pid} is gone")


@pytest.mark.parametrize("then", ENDS)
async def test_a_daemon_ends_with_the_child_process_of_its_handler(
    world: World, system: System, pid_file: Path, then: str
) -> None:
    worker = await a_worker(world, system, "intruder.daemon")
    (row,) = await world.ended(*await world.enqueue("intruder.daemon", then=then, pid_file=str(pid_file)))
    assert row["status"] == ENDS[then], row["last_error"]
    daemon = pid_in(pid_file)
    if then == "disown":
        # The child did not look as if it had left a process behind, so it was kept.
        child = json.loads(row["result"])
        assert {child, daemon} <= set(children(worker.popen.pid))
        os.kill(child, signal.SIGKILL)
    await is_gone(daemon)
    assert children(worker.popen.pid) == []


async def test_a_daemon_that_a_threaded_handler_started_is_left_alone(
    world: World, system: System, pid_file: Path, tmp_path: Path
) -> None:
    worker = await a_worker(world, system, "intruder.thread", "intruder.daemon")
    (row,) = await world.ended(*await world.enqueue("intruder.thread", pid_file=str(pid_file)))
    assert row["status"] == "SUCCEEDED", row["last_error"]
    other = tmp_path / "other"
    await world.ended(*await world.enqueue("intruder.daemon", then="crash", pid_file=str(other)))
    await is_gone(pid_in(other))
    assert children(worker.popen.pid) == [pid_in(pid_file)]

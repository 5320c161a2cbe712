"""A worker that is told to stop while it starts: it ends, and has taken nothing."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dtq_reconcile.embedded import ensure_default
from dtq_worker import startup
from tests.support.system import System, dtq_command
from tests.support.waiting import LONG_SECONDS, SHORT_SECONDS, eventually
from tests.worker.handlers.conftest import children
from tests.worker.world import World

MODULE = "tests.worker.handlers.slow_import"
WORKER = dtq_command("worker")
FIRST_PROCESS = ["unshare", "--pid", "--fork", "--mount-proc"]


@pytest.mark.parametrize("prefix", [[], FIRST_PROCESS], ids=["a process", "the first process of its namespace"])
@pytest.mark.parametrize("number", ["TERM", "INT"])
async def test_a_signal_during_the_import_of_handlers_ends_the_worker_and_no_lease_is_taken(
    system: System, tmp_path: Path, dsn: str, prefix: list[str], number: str
) -> None:
    system.run("migrate")
    importing = tmp_path / "importing"
    environ = {"WORKER_HANDLERS": MODULE, "TEST_IMPORTING": str(importing)}
    popen = system.start("worker", program=[*prefix, *WORKER], **environ).popen

    async def it_imports() -> bool:
        return importing.exists()

    await eventually(it_imports, "the worker imports its handlers", LONG_SECONDS)
    pid = _child(popen.pid) if prefix else popen.pid
    system.stack.callback(subprocess.run, ["kill", "-KILL", str(pid)], check=False, capture_output=True)
    await asyncio.to_thread(subprocess.run, ["kill", f"-{number}", str(pid)], check=True)
    assert await asyncio.to_thread(popen.wait, 10) == 0
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM workers") == 0
    finally:
        await connection.close()


async def test_handlers_that_take_the_signals_when_they_are_imported_do_not_keep_them(system: System) -> None:
    system.run("migrate")
    worker = system.worker(WORKER_HANDLERS=MODULE, TEST_TAKES_SIGNALS="yes")
    await worker.ready()
    assert await asyncio.to_thread(worker.terminate) == 0


async def test_a_worker_that_is_told_to_stop_as_its_queues_appear_does_not_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = asyncio.Event()

    async def declare_and_stop(*args: Any) -> None:
        stop.set()
        await ensure_default(*args)

    monkeypatch.setattr(startup, "ensure_default", declare_and_stop)
    assert await startup.StartupWait(world.settings(), world.database).queue_sets(stop) is None


async def test_the_first_process_of_a_container_reaps_what_its_children_started(system: System, world: World) -> None:
    await world.declare("kind.process", timeout_seconds=20)
    handlers = "tests.worker.handlers.kinds"
    first = system.start("worker", program=[*FIRST_PROCESS, *WORKER], WORKER_HANDLERS=handlers)
    try:
        await first.ready()
        for name in ("pool left open", "crash beside a helper"):
            (row,) = await world.ended(*(await world.enqueue("kind.process", kind=name)), seconds=60)
            assert row["status"] == "SUCCEEDED" or "signal 11" in row["last_error"]
        worker = _child(first.popen.pid)

        async def no_child_is_left() -> bool:
            return not children(worker)

        await eventually(no_child_is_left, "no process is left, dead or alive", SHORT_SECONDS)
    finally:
        os.kill(_child(first.popen.pid), signal.SIGKILL)


def _child(pid: int) -> int:
    (child,) = children(pid)
    return child

"""A worker that is told to stop while it starts: it ends, and has taken nothing."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from dtq_db import catalog
from dtq_db.connections import Database
from dtq_worker.main import Start
from tests.support.system import System, eventually
from tests.worker.world import World

MODULE = "tests.worker.handlers.slow_import"
FIRST_PROCESS = ["unshare", "--pid", "--fork"]


@pytest.mark.parametrize("prefix", [[], FIRST_PROCESS], ids=["a process", "the first process of its namespace"])
@pytest.mark.parametrize("number", ["TERM", "INT"])
async def test_a_signal_during_the_import_of_handlers_ends_the_worker_and_no_lease_is_taken(
    system: System, tmp_path: Path, dsn: str, prefix: list[str], number: str
) -> None:
    system.run("migrate")
    importing = tmp_path / "importing"
    popen = _started([*prefix, sys.executable, "-m", "dtq_cli", "worker"], system, importing)

    async def it_imports() -> bool:
        return importing.exists()

    await eventually(it_imports, "the worker imports its handlers", 60)
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

    async def load_and_stop(database: Database) -> Any:
        stop.set()
        return await loaded(database)

    loaded = catalog.load
    monkeypatch.setattr(catalog, "load", load_and_stop)
    found: object = await Start(world.settings(), world.database).queue_sets(stop)
    assert found is None


def _started(command: list[str], system: System, importing: Path) -> "subprocess.Popen[bytes]":
    environ = {**system.environ, "WORKER_HANDLERS": MODULE, "TEST_IMPORTING": str(importing)}
    popen = subprocess.Popen(command, env=environ)
    system.stack.callback(popen.wait)
    system.stack.callback(popen.kill)
    return popen


def _child(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)

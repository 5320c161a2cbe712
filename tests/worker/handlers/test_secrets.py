"""The secrets of a worker: its child processes cannot read them, nor what the children of other types hold."""

import json
import os
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.system import Process, System, dtq_command
from tests.worker.handlers.conftest import children
from tests.worker.world import World

TYPES = ("intruder.reader", "intruder.pid", "intruder.environ")
DENIED = dict.fromkeys(("environ", "mem", "maps", "fd/0"), "denied")


@pytest_asyncio.fixture(loop_scope="session")
async def worker(world: World, system: System) -> Process:
    """A worker without capabilities, as in a pod: with CAP_SYS_PTRACE a process may read every other."""
    await world.declare(*TYPES, timeout_seconds=20)
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    environ = {"WORKER_HANDLERS": "tests.worker.handlers.intruders"}
    process = system.start("worker", program=[*without, *dtq_command("worker")], **environ)
    await process.ready()
    return process


@pytest.mark.usefixtures("worker")
async def test_a_child_process_cannot_read_its_worker(world: World) -> None:
    (row,) = await world.ended(*await world.enqueue("intruder.reader"))
    assert row["status"] == "SUCCEEDED", row["last_error"]
    assert json.loads(row["result"]) == DENIED


async def test_a_child_process_cannot_read_the_child_of_another_type(world: World, worker: Process) -> None:
    (row,) = await world.ended(*await world.enqueue("intruder.pid"))
    other = json.loads(row["result"])
    assert other in children(worker.popen.pid)
    (row,) = await world.ended(*await world.enqueue("intruder.reader", pid=other))
    assert row["status"] == "SUCCEEDED", row["last_error"]
    assert json.loads(row["result"]) == DENIED


async def test_the_environment_of_a_worker_has_no_secret(world: World, system: System, worker: Process) -> None:
    (row,) = await world.ended(*await world.enqueue("intruder.environ"))
    assert not {"DB_DSN", "RMQ_PASS"} & set(json.loads(row["result"])), row["result"]
    if os.geteuid() == 0:
        shown = Path(f"/proc/{worker.popen.pid}/environ").read_bytes()  # noqa: ASYNC240
        assert b"WORKER_HANDLERS=tests" in shown
        assert system.environ["DB_DSN"].encode() not in shown
        assert b"RMQ_PASS=" + system.environ["RMQ_PASS"].encode() not in shown

"""A process that a handler leaves behind holds nothing of its worker."""

import json
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import SHORT_SECONDS, eventually
from tests.worker.handlers.conftest import Street, ends

SESSIONS = """
SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'dtq-worker%' AND datname = current_database()
"""


@pytest.mark.parametrize("mode", ["async", "thread"])
async def test_a_helper_that_outlives_its_handler_holds_no_connection_of_the_worker(street: Street, mode: str) -> None:
    await street.open()
    assert street.process is not None
    row = await ends(street, f"kind.{mode}", 25, kind="helper's pid")
    helper = int(json.loads(row["result"]))
    try:
        assert len(_connections(street.process.popen.pid)) >= 4, "Postgres, RabbitMQ, the lease, the listener"
        assert not _connections(street.process.popen.pid) & _connections(helper)
    finally:
        os.kill(helper, signal.SIGKILL)


async def test_a_worker_can_take_the_port_of_a_dead_one_whose_helper_lives(street: Street) -> None:
    await street.open()
    assert street.process is not None
    row = await ends(street, "kind.thread", 25, kind="helper's pid")
    helper = int(json.loads(row["result"]))
    try:
        street.process.kill()
        await street.open(address=street.process.address)
    finally:
        os.kill(helper, signal.SIGKILL)


async def test_a_dead_worker_is_seen_to_be_dead_though_its_helper_lives(street: Street) -> None:
    await street.open()
    assert street.process is not None
    row = await ends(street, "kind.thread", 25, kind="helper's pid")
    helper = int(json.loads(row["result"]))
    try:
        street.process.kill()

        async def nobody_is_connected() -> bool:
            return bool(await street.world.rows.sql.fetchval(SESSIONS) == 0)

        await eventually(nobody_is_connected, "Postgres has ended the dead worker's sessions", SHORT_SECONDS)
    finally:
        os.kill(helper, signal.SIGKILL)


def _connections(pid: int) -> set[str]:
    """The TCP sockets of a process, by inode."""
    tcp = {
        line.split()[9] for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    }
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            target = str(link.readlink())
            if target.startswith("socket:[") and target[8:-1] in tcp:
                found.add(target[8:-1])
    return found

"""A real worker process that runs the kinds, started again only when a test has ended it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.support.system import Process, System, call, opened
from tests.support.waiting import CHANGE_SECONDS, eventually
from tests.worker.world import World, open_world

MODULE = "tests.worker.handlers.kinds"
MODES = ("async", "thread", "process")


@dataclass(kw_only=True)
class Street:
    """One worker process, the tasks that it runs, and the tasks that run beside the tested one."""

    world: World
    system: System
    process: Process | None = None
    neighbours: list[UUID] = field(default_factory=list)
    lease: UUID | None = None

    async def open(self, address: str | None = None) -> None:
        """Make sure that a worker is ready with a lease; start a new one if a test has ended the last."""
        if self.process is None or self.process.popen.poll() is not None or not await self._answers():
            if self.process is not None:
                self.process.kill()
            environ = {"WORKER_HANDLERS": MODULE, "WORKER_CONCURRENCY": "16", "WORKER_DRAIN": "2s"}
            self.process = self.system.start("worker", address=address, **environ)
            await self.process.ready()
        (self.lease,) = await self._leases()

    async def move_in(self, folder: Path) -> Path:
        """Start a neighbour in each mode; they run until the file that is returned exists."""
        until = folder / "until"
        self.neighbours = [
            id_ for mode in MODES for id_ in await self.world.enqueue(f"neighbour.{mode}", until=str(until))
        ]
        for id_ in self.neighbours:
            await self.world.has(id_, "RUNNING")
        return until

    async def is_unharmed(self, until: Path) -> None:
        """Check that the worker is ready, holds the same lease, and that no neighbour lost an attempt."""
        assert self.process is not None
        assert self.process.popen.poll() is None, self.log()
        await eventually(
            self._answers, "the worker is ready", CHANGE_SECONDS
        )  # a blocked loop may have cost it a connection
        assert await self._leases() == [self.lease], self.log()
        until.touch()  # noqa: ASYNC240
        for row in await self.world.ended(*self.neighbours):
            assert (row["status"], row["attempts"], row["crashes"]) == ("SUCCEEDED", 1, 0), row["last_error"]
        next_ones = [id_ for mode in MODES for id_ in await self.world.enqueue(f"neighbour.{mode}", until=str(until))]
        for row in await self.world.ended(*next_ones):
            assert (row["status"], row["attempts"], row["crashes"]) == ("SUCCEEDED", 1, 0), row["last_error"]

    def log(self) -> str:
        """Return the end of the worker's log."""
        assert self.process is not None
        return self.process.log.read_text(errors="replace")[-3000:]

    async def _answers(self) -> bool:
        assert self.process is not None
        return (await call(f"http://{self.process.address}/readyz"))[0] == 200

    async def _leases(self) -> list[UUID]:
        assert self.process is not None
        found = await self.world.rows.sql.fetch(
            "SELECT id FROM workers WHERE lease_expires_at > now() AND name LIKE '%:' || $1 ORDER BY id",
            str(self.process.popen.pid),
        )
        return [row["id"] for row in found]

    async def stop(self) -> int:
        """Stop the worker as Kubernetes does; return its exit code."""
        assert self.process is not None
        return await asyncio.to_thread(self.process.terminate)

    async def declare(self, **timeouts: int) -> None:
        """Declare every type of the kinds, each with the timeout of the first part of its name."""
        for first, modes in {
            "kind": MODES, "neighbour": MODES, "quick": ("async", "thread"), "short": ("async", "process"),
        }.items():  # fmt: skip
            await self.world.declare(*(f"{first}.{mode}" for mode in modes), timeout_seconds=timeouts[first])


@pytest.fixture
def system(tmp_path: Path, dsn: str, broker_vhost: BrokerVhost) -> Iterator[System]:
    """A system of the test's own, without anything declared."""
    with opened(tmp_path, dsn, broker_vhost) as system:
        yield system


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def street(
    postgres_server: PostgresService,
    rabbitmq_server: RabbitMQService,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Street]:
    """One street for every kind: all kinds run on the same worker."""
    folder = tmp_path_factory.mktemp("street")
    async with fresh_database(postgres_server, template=template_database) as dsn:
        with rabbitmq_server.fresh_vhost() as vhost, ExitStack() as stack:
            stack.callback(_end_what_is_left, f"HANDLER_LOG={folder}/")
            system = stack.enter_context(opened(folder, dsn, vhost))
            async with open_world(dsn, vhost) as world:
                street = Street(world=world, system=system)
                await street.declare(kind=20, neighbour=60, quick=3, short=2)
                yield street


async def ends(street: Street, type_: str, seconds: float, **payload: Any) -> Any:
    """Run one task to its end, within a bound; return its row."""
    (id_,) = await street.world.enqueue(type_, **payload)
    return await street.world.has(id_, "SUCCEEDED", "FAILED", "CANCELLED", seconds=seconds)


def children(pid: int) -> list[int]:
    """Return the child processes of a process's main thread, dead or alive."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _end_what_is_left(variable: str) -> None:
    """End the processes that handlers left behind: those with this text in their environment."""
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if variable.encode() in environ.read_bytes():
                os.kill(int(environ.parent.name), signal.SIGKILL)

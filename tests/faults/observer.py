"""Observes a system from outside while a schedule runs: readiness, progress, and resource use of the processes.

It connects to the servers directly, not through the proxies; a sample lacks the numbers of a server that does not
answer.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2

from dtq.runtime.loops import wait
from tests.faults.history import Sample
from tests.faults.invariants.service import best_rate
from tests.faults.world import World

SAMPLE_SECONDS: Final = 0.5
"""Pause between two samples, in seconds."""
ASK_SECONDS: Final = 2.0
"""Longest question to a process, in seconds."""
LOOK_SECONDS: Final = 10.0
"""Longest question to the database, in seconds."""
SYSTEM: Final = "system"
"""Under which name a sample says what no single process can tell."""
_COUNTS: Final = """
SELECT count(*) FILTER (WHERE status NOT IN ('ENQUEUED', 'RUNNING')) AS finished,
    count(*) FILTER (WHERE status IN ('ENQUEUED', 'RUNNING')) AS open,
    count(*) FILTER (WHERE status = 'FAILED' AND dead_lettered_at IS NULL) AS dead_letters_due,
    (SELECT count(*) FROM pg_stat_activity WHERE usename = 'dtq') AS connections
FROM tasks
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the tasks are, and how many connections the processes hold."""

    at: float
    finished: int
    open: int
    dead_letters_due: int
    connections: int


class Observer:
    """Samples a world until told to stop.

    Args:
        record: takes each sample.
    """

    def __init__(self, world: World, *, record: Callable[[Sample], None]) -> None:
        self._world = world
        self._record = record
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._counted: list[tuple[float, int]] = []
        self.ready: dict[str, bool] = {}
        self.progress: Progress | None = None
        """The last progress that was seen, unless the database did not answer just now."""

    @property
    def all_ready(self) -> bool:
        """Whether every process said that it was ready when it was last asked."""
        return bool(self.ready) and all(self.ready.values())

    def per_second(self, since: float = 0.0) -> float:
        """The best throughput since then, as the checker takes it from the same samples; 0 while there are too few."""
        return best_rate([sample for sample in self._counted if sample[0] >= since]) or 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Sample until `stop`."""
        async with httpx2.AsyncClient(timeout=ASK_SECONDS) as client:
            while not stop.is_set():
                await self._sample(client)
                await wait(stop, SAMPLE_SECONDS)
        await self._disconnect()

    async def _sample(self, client: httpx2.AsyncClient) -> None:
        members = dict(self._world.members)
        states = await asyncio.gather(*(self._is_ready(client, member.address) for member in members.values()))
        self.ready = dict(zip(members, states, strict=True))
        self.progress = progress = await self._look()
        at = progress.at if progress else time.time()
        if progress:
            self._counted.append((at, progress.finished))
        for name, member in members.items():
            self._record(Sample(at=at, process=name, ready=self.ready[name], **usage(member.process.popen.pid)))
        self._record(
            Sample(
                at=at,
                process=SYSTEM,
                connections=self._connections(progress),
                finished_total=progress.finished if progress else None,
            )
        )

    def _connections(self, progress: Progress | None) -> int | None:
        """Return the connections to Postgres and RabbitMQ; None if Postgres does not tell."""
        amqp = sum(proxy.connections for name, proxy in self._world.proxies.items() if name.endswith("amqp"))
        return progress.connections + amqp if progress else None

    @staticmethod
    async def _is_ready(client: httpx2.AsyncClient, address: str) -> bool:
        try:
            return (await client.get(f"http://{address}/readyz")).is_success
        except httpx2.HTTPError:
            return False

    async def _look(self) -> Progress | None:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._connection is None or self._connection.is_closed():
                    self._connection = await asyncpg.connect(self._world.postgres.dsn("dtq", user="postgres"))
                row = await self._connection.fetchrow(_COUNTS)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            await self._disconnect()
            return None
        assert row is not None
        return Progress(at=time.time(), **dict(row))

    async def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


def usage(pid: int) -> dict[str, Any]:
    """Return memory and open files of a process; nothing when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return {
            "rss_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "fds": len(list(Path(f"/proc/{pid}/fd").iterdir())),
        }
    except OSError:
        return {}

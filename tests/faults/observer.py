"""Owns what is seen from outside while a schedule runs: readiness, progress, and what the processes use.

It must never go through what the faults break: it asks the servers themselves, and a server that does not answer
is a sample without that number.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2

from dtq.runtime.loops import wait
from tests.faults.history import Sample
from tests.faults.world import World

SAMPLE_SECONDS: Final = 0.5
"""Pause between two samples, in seconds."""
ASK_SECONDS: Final = 2.0
"""Longest question to a process, in seconds."""
LOOK_SECONDS: Final = 10.0
"""Longest question to the database, in seconds."""
WINDOW_SECONDS: Final = 3.0
"""Over how long a throughput is taken, in seconds."""
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
        self._recent: deque[Progress] = deque()
        self.ready: dict[str, bool] = {}

    @property
    def all_ready(self) -> bool:
        """Whether every process said that it was ready when it was last asked."""
        return bool(self.ready) and all(self.ready.values())

    @property
    def progress(self) -> Progress | None:
        """The last progress that was seen, unless the database did not answer just now."""
        return self._recent[-1] if self._recent else None

    @property
    def per_second(self) -> float:
        """How many tasks came to their end a second, over the last moments; 0 while there are too few of them."""
        if not self._recent or self._recent[-1].at - self._recent[0].at < WINDOW_SECONDS:
            return 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last.finished - first.finished) / (last.at - first.at)

    def forget(self) -> None:
        """Forget what was seen: a throughput is of what comes from now on."""
        self._recent.clear()

    async def run(self, stop: asyncio.Event) -> None:
        """Sample until `stop`."""
        async with httpx2.AsyncClient(timeout=ASK_SECONDS) as client:
            while not stop.is_set():
                await self._sample(client)
                await wait(stop, SAMPLE_SECONDS)
        await self._disconnect()

    async def _sample(self, client: httpx2.AsyncClient) -> None:
        members = dict(self._world.members)
        states = await asyncio.gather(*(self._is_ready(client, one.address) for one in members.values()))
        self.ready = dict(zip(members, states, strict=True))
        progress = await self._look()
        at = time.time()
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
            self._recent.clear()
            return None
        assert row is not None
        progress = Progress(at=time.monotonic(), **dict(row))
        while len(self._recent) > 1 and progress.at - self._recent[1].at >= WINDOW_SECONDS:
            self._recent.popleft()
        self._recent.append(progress)
        return progress

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

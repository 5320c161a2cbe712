"""PgQueuer on Postgres alone. `worker` runs tasks, `install` makes its tables, and the loads enqueue."""

import asyncio
import json
import os
import sys

import asyncpg
import uvloop
from pgqueuer import Job, PgQueuer
from pgqueuer.db import AsyncpgDriver, AsyncpgPoolDriver
from pgqueuer.queries import Queries

from bench.peers.programs.load import main_async
from bench.tally import began

BATCH = 100
"""Jobs of one dequeue; the default is 10."""
CONNECTIONS = 16


async def install() -> None:
    """Make the tables."""
    await Queries(AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_DSN"]))).install()


async def worker() -> None:
    """Run tasks until a signal."""
    queue = PgQueuer(AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_DSN"])))

    @queue.entrypoint("noop")
    async def noop(job: Job) -> None:
        began(json.loads(job.payload)["sent_ns"])

    await queue.run(batch_size=BATCH)


class Peer:
    """PgQueuer's client, with a pool."""

    async def open(self) -> None:
        """Connect."""
        self._pool = await asyncpg.create_pool(os.environ["BENCH_DSN"], min_size=CONNECTIONS, max_size=CONNECTIONS)
        self._queries = Queries(AsyncpgPoolDriver(self._pool))

    async def close(self) -> None:
        """Disconnect."""
        await self._pool.close()

    async def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        await self._queries.enqueue("noop", json.dumps(payload).encode())

    async def many(self, payloads: list[dict[str, int]]) -> None:
        """Enqueue many in one call."""
        count = len(payloads)
        await self._queries.enqueue(
            ["noop"] * count, [json.dumps(payload).encode() for payload in payloads], [0] * count
        )


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        uvloop.run(worker())
    elif sys.argv[1:] == ["install"]:
        asyncio.run(install())
    else:
        main_async(Peer())

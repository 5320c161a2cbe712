"""Procrastinate on Postgres alone."""

import logging
import os

import procrastinate

from bench.peers.programs.load import main_async
from bench.tally import began

logging.getLogger("procrastinate").setLevel(logging.WARNING)
app = procrastinate.App(
    connector=procrastinate.PsycopgConnector(conninfo=os.environ["BENCH_DSN"], min_size=4, max_size=20)
)


@app.task(name="noop", queue="bench")
async def noop(sent_ns: int) -> None:
    """Do nothing but count."""
    began(sent_ns)


class Peer:
    """Procrastinate's client."""

    async def open(self) -> None:
        """Connect."""
        await app.open_async()

    async def close(self) -> None:
        """Disconnect."""
        await app.close_async()

    async def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        await noop.defer_async(**payload)

    async def many(self, payloads: list[dict[str, int]]) -> None:
        """Enqueue many in one call."""
        await noop.batch_defer_async(*payloads)


if __name__ == "__main__":
    main_async(Peer())

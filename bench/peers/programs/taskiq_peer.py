"""Taskiq on aio-pika; results in Postgres if BENCH_RESULTS is its DSN."""

import os

from taskiq_aio_pika import AioPikaBroker
from taskiq_aio_pika.exchange import Exchange
from taskiq_aio_pika.queue import Queue

from bench.peers.programs.load import main_async
from bench.tally import began

RESULTS = os.environ.get("BENCH_RESULTS")
broker = AioPikaBroker(
    os.environ["BENCH_AMQP"],
    qos=256,
    exchange=Exchange(name="bench.taskiq"),
    task_queues=[Queue(name="bench.taskiq")],
)
if RESULTS is not None:
    from taskiq_pg.asyncpg import AsyncpgResultBackend

    broker = broker.with_result_backend(AsyncpgResultBackend(dsn=RESULTS))


@broker.task(task_name="noop")
async def noop(payload: dict[str, int]) -> dict[str, int]:
    """Do nothing but count."""
    began(payload["sent_ns"])
    return {"sent_ns": payload["sent_ns"]}


class Peer:
    """Taskiq's client."""

    async def open(self) -> None:
        """Connect and declare."""
        await broker.startup()

    async def close(self) -> None:
        """Disconnect."""
        await broker.shutdown()

    async def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        await noop.kiq(payload)


if __name__ == "__main__":
    main_async(Peer())

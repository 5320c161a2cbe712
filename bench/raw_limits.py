"""The raw limits: what HTTP, RabbitMQ and Postgres carry on this machine without a task queue."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Final

import asyncpg

from bench.amqp_publisher import publish_confirmed
from bench.group import group
from bench.processes import free_port
from bench.record import Sample
from bench.servers import Servers
from bench.wrk import http_load

EMPTY_POST: Final = "raw-empty-post"
CONFIRMED_PUBLISH: Final = "raw-confirmed-publish"
SQL_INSERT: Final = "raw-sql-insert"
BATCH: Final = 100
DATABASE: Final = "bench_raw"
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS raw (id uuid PRIMARY KEY, type text NOT NULL, payload jsonb NOT NULL,"
    " created_at timestamptz NOT NULL DEFAULT now())"
)
_INSERT: Final = (
    "INSERT INTO raw (id, type, payload)"
    " SELECT gen_random_uuid(), 'bench.noop.v1', p::jsonb FROM unnest($1::text[]) AS p"
)
_PAYLOAD: Final = '{"sent_ns": 0}'

RAW: Final = {
    EMPTY_POST: "an empty Starlette handler: decodes and answers JSON; uvicorn, one process; wrk with 64 connections",
    CONFIRMED_PUBLISH: "persistent messages of 60 bytes to a quorum queue, 1,000 awaited at a time; prepared frames",
    SQL_INSERT: "rows of four columns in batches of 100 by one connection, a commit for each batch; no trigger",
}


async def measure(servers: Servers, name: str, seconds: float) -> Sample:
    """Measure one limit."""
    count, took = await _LIMITS[name](servers, seconds)
    return Sample(contestant=name, measure="limit", count=count, per_second=round(count / took, 1))


async def _empty_post(_: Servers, seconds: float) -> tuple[int, float]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with group([[sys.executable, "-m", "bench.empty", str(port)]], {}) as running:
        await asyncio.to_thread(running.wait_ready, url)
        load = await asyncio.to_thread(http_load, url, seconds)
    return load["count"], load["seconds"]


async def _confirmed_publish(servers: Servers, seconds: float) -> tuple[int, float]:
    figures = await asyncio.to_thread(publish_confirmed, servers.rabbitmq.url(), "bench.raw", seconds)
    await servers.purge(("bench.raw",))
    return figures


async def _sql_insert(servers: Servers, seconds: float) -> tuple[int, float]:
    connection = await asyncpg.connect(servers.postgres.dsn(DATABASE))
    try:
        await connection.execute(_TABLE)
        await connection.execute("TRUNCATE raw")
        insert = await connection.prepare(_INSERT)
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds:
            await insert.fetch([_PAYLOAD] * BATCH)
            count += BATCH
        return count, time.perf_counter() - began
    finally:
        await connection.close()


_LIMITS: Final[dict[str, Callable[[Servers, float], Awaitable[tuple[int, float]]]]] = {
    EMPTY_POST: _empty_post,
    CONFIRMED_PUBLISH: _confirmed_publish,
    SQL_INSERT: _sql_insert,
}

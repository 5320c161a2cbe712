"""`python -m bench.growth`: what a large table costs statements about other rows.

The scenes: lists, a burst, rest, recovery, and statistics of the opposite state. The figures are printed, not judged.

Run it beside the servers of a local stack alone (`python -m hack.stack servers`, `dtq migrate`): the API and the worker
of `make up` would take part. Of the stack's environment it needs `DB_DSN` and `RMQ_*`, and `DB_ADMIN_DSN`, the same
database as a superuser (`postgres`, with the same password). To count statements, the server must preload
pg_stat_statements: `ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'`, then restart it.
A scene leaves behind what `fill` put into the table, and nothing else; `clear` takes that away.
"""

import argparse
import asyncio
import json
import math
import os
import statistics
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import aiormq
import asyncpg

from bench.cost import counted, postmaster_of, statements
from bench.measures import TYPE, drain, enqueue, post
from bench.processes import dtq, run_dtq

BURST_LEAD_SECONDS: Final = 30.0
"""How long before they are due the tasks of a burst begin to be stored, in seconds."""
BURST_SECONDS: Final = 900.0
"""Longest wait for a burst to be started, in seconds."""
SETTLE_SECONDS: Final = 30.0
"""How long a process that has started may be busy with that, in seconds."""
WALK_SECONDS: Final = 900.0
"""Longest wait for the pruner to have looked through everything once, in seconds."""
LEASE_SECONDS: Final = 15.0
"""The lease of the worker that dies, in seconds: dtq's own."""
RECOVERY_SECONDS: Final = 120.0
"""Longest wait for a task to be taken back, in seconds."""
LOAD: Final = """
INSERT INTO tasks (id, type, queue_set, queue, status, payload, attempts, worker_id, failed_at, created_at, updated_at)
SELECT (lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint - 86400000 + (n * 86400000::bigint / $1)), 12, '0')
        || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
    CASE WHEN n % 100000 = 1 THEN 'bench.rare.v1' ELSE 'bench.noop.v1' END, 'bench', 'default',
    CASE WHEN n % 1000 = 0 THEN 'FAILED' ELSE 'SUCCEEDED' END, '{"n": 1}', 1, $2,
    CASE WHEN n % 1000 = 0 THEN now() END, now(), now()
FROM generate_series($3::bigint, $4::bigint) n
"""
BURST: Final = """
INSERT INTO tasks (id, type, queue_set, queue, status, payload, run_at, needs_publish, publish_at)
SELECT ($1 || lpad(to_hex(n), 12, '0'))::uuid, $3, 'bench', 'default', 'ENQUEUED', '{}', $4, true, $4
FROM generate_series(0, $2::bigint - 1) n
"""
UNSTARTED: Final = "SELECT EXISTS (SELECT FROM tasks WHERE id BETWEEN $1 AND $2 AND attempts = 0)"
LATE: Final = """
SELECT count(*) AS started, count(*) FILTER (WHERE late <= 60) AS started_within_60_s,
    round(percentile_cont(0.5) WITHIN GROUP (ORDER BY late)::numeric, 1)::float8 AS late_p50_s,
    round(max(late), 1)::float8 AS late_max_s
FROM (
    SELECT extract(epoch FROM min(at) - $3) AS late FROM task_events
    WHERE task_id BETWEEN $1 AND $2 AND event = 'RUNNING' GROUP BY task_id
) AS started
"""
BLOCKS_READ: Final = "SELECT blks_read FROM pg_stat_database WHERE datname = current_database()"
FILTERS: Final = (
    "",
    "status=FAILED",
    "status=RUNNING",
    "status=ENQUEUED",
    "status=CANCELLED",
    "status=SUCCEEDED",
    "type=bench.rare.v1",
    "type=bench.noop.v1",
    "queue=high",
    "status=FAILED&type=bench.rare.v1",
    "status=FAILED&queue=high",
    "status=SUCCEEDED&type=bench.rare.v1",
    "status=CANCELLED&type=bench.noop.v1&queue=default",
)


async def fill(rows: int) -> dict[str, Any]:
    """Have so many more finished tasks of one worker in the table, and fresh statistics of them."""
    worker = uuid4()
    async with _superuser() as connection:
        await connection.execute("SET session_replication_role = replica")
        for first in range(1, rows + 1, 500_000):
            await connection.execute(LOAD, rows, worker, first, min(rows, first + 499_999))
        await connection.execute("VACUUM ANALYZE tasks")
        if await _has(connection, "prune_slice"):
            # The pruner has seen none of it: let it look now, and not in the middle of a measurement.
            await connection.execute("UPDATE prune_slice SET look_at = now()")
        size = await connection.fetchval("SELECT pg_total_relation_size('tasks')")
    return {"rows": rows, "worker": str(worker), "table_MB": size >> 20}


async def clear() -> dict[str, Any]:
    """Delete every task of the measurements."""
    async with _superuser() as connection:
        gone = await connection.execute("DELETE FROM tasks WHERE queue_set = 'bench'")
        await connection.execute("VACUUM ANALYZE tasks")
    return {"deleted": int(gone.split()[-1])}


async def lists(count: int) -> dict[str, Any]:
    """Ask for the first page of each filter, in turn; milliseconds."""
    took: dict[str, list[float]] = {filter_: [] for filter_ in FILTERS}
    refused: Counter[str] = Counter()
    with dtq("api", "HTTP_PORT") as url:
        for filter_ in FILTERS * count:
            began = time.perf_counter()
            try:
                _get(f"{url}/tasks?{filter_}")
            except urllib.error.HTTPError as error:
                refused[f"{error.code} {filter_}"] += 1
            took[filter_].append((time.perf_counter() - began) * 1e3)
    return {"refused": refused} | {name or "all": _spread(times) for name, times in took.items()}


async def burst(due: int) -> dict[str, Any]:
    """Have so many tasks due at once; how late each starts, and what a client sees of the API meanwhile."""
    async with _superuser() as connection, _traceless(connection):
        with ExitStack() as stack:
            url = stack.enter_context(dtq("api", "HTTP_PORT"))
            stack.enter_context(dtq("worker", "WORKER_HTTP_PORT"))
            at = await connection.fetchval("SELECT now() + make_interval(secs => $1)", BURST_LEAD_SECONDS)
            first, last = _id_at(at), UUID(int=_id_at(at).int + due - 1)
            await connection.execute(BURST, first.hex[:20], due, TYPE, at)
            left = await connection.fetchval("SELECT extract(epoch FROM $1 - now())::float8", at)
            assert left > 0, "storing the burst took longer than its lead"
            await asyncio.sleep(left)
            over = threading.Event()
            watching = asyncio.create_task(asyncio.to_thread(_watch, url, over))
            await _while(connection, UNSTARTED, first, last, pause_seconds=2, seconds=BURST_SECONDS)
            over.set()
            waits = await watching
        late = await connection.fetchrow(LATE, first, last, at)
        return {"due": due} | dict(late) | waits


def _watch(url: str, over: threading.Event) -> dict[str, Any]:
    """Ask the API for what clients ask for; milliseconds and refusals, until `over`."""
    asks: dict[str, Callable[[], Any]] = {
        "GET ms": partial(_get, f"{url}/tasks?limit=1"),
        "POST ms": partial(post, url),
    }
    waits: dict[str, list[float]] = {name: [] for name in asks}
    refused = 0
    while not over.wait(0.05):
        for name, ask in asks.items():
            began = time.perf_counter()
            try:
                ask()
            except urllib.error.HTTPError:
                refused += 1
            waits[name].append((time.perf_counter() - began) * 1e3)
    return {name: _spread(times) for name, times in waits.items()} | {"refused": refused}


async def rest(seconds: int, replicas: int) -> dict[str, Any]:
    """Let replicas of the API, and a worker, do nothing; what that costs, in statements and CPU seconds a second."""
    async with _superuser() as connection, _statements_counted(connection):
        with ExitStack() as stack:
            for _ in range(replicas):
                stack.enter_context(dtq("api", "HTTP_PORT"))
            stack.enter_context(dtq("worker", "WORKER_HTTP_PORT"))
            await _settled(connection)
            with counted(await postmaster_of(connection)) as cpu:
                before, read = await statements(connection), await connection.fetchval(BLOCKS_READ)
                await asyncio.sleep(seconds)
                after, read = await statements(connection), await connection.fetchval(BLOCKS_READ) - read
    cores = {name: round(used / seconds, 4) for name, used in cpu.items()}
    return {
        "statements_per_second": None if before is None or after is None else round((after - before) / seconds, 2),
        "read_kB_per_second": round(read * 8 / seconds, 1),
        "cores": cores | {"together": round(sum(cores.values()), 4)},
    }


async def _settled(connection: Any) -> None:
    """Wait until what is done once after a start, or after a fill, is done: that is not rest."""
    await asyncio.sleep(SETTLE_SECONDS)
    if await _has(connection, "prune_slice"):
        due = "SELECT EXISTS (SELECT FROM prune_slice WHERE look_at <= now())"
        assert await _while(connection, due, pause_seconds=1, seconds=WALK_SECONDS), "the pruner does not come to rest"


async def recovery() -> dict[str, Any]:
    """Let a worker that has run everything in the table die with a running task; seconds until it is taken back.

    Postgres plans without parallel queries meanwhile.
    """
    async with _superuser() as connection, _traceless(connection):
        worker = await connection.fetchval("SELECT worker_id FROM tasks WHERE queue_set = 'bench' ORDER BY id LIMIT 1")
        assert worker is not None, "fill the table first"
        finished = await connection.fetchval("SELECT count(*) FROM tasks WHERE worker_id = $1", worker)
        database = await connection.fetchval("SELECT quote_ident(current_database())")
        await connection.execute(f"ALTER DATABASE {database} SET max_parallel_workers_per_gather = 0")
        try:
            with dtq("api", "HTTP_PORT"):
                figures = await _taken_back(connection, worker)
        finally:
            await connection.execute(f"ALTER DATABASE {database} RESET max_parallel_workers_per_gather")
            await connection.execute("DELETE FROM workers WHERE id = $1", worker)
            if await _has(connection, "worker_claims"):
                await connection.execute("DELETE FROM worker_claims WHERE worker_id = $1", worker)
    return {"finished_tasks_of_the_worker": finished} | figures


async def _taken_back(connection: Any, worker: UUID) -> dict[str, Any]:
    """Claim one task for a worker that never renews its lease, and wait until the reaper takes it back."""
    id_ = _id_at(await connection.fetchval("SELECT now()"))
    await connection.execute(
        "INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)"
        " VALUES ($1, 'old', '{default}', $2, 8, now() + make_interval(secs => $3))",
        worker,
        [TYPE],
        LEASE_SECONDS,
    )
    await connection.execute(
        "INSERT INTO tasks (id, type, queue_set, queue, status, payload, needs_publish, publish_at)"
        " VALUES ($1, $2, 'bench', 'default', 'ENQUEUED', '{}', false, now())",
        id_,
        TYPE,
    )
    began = time.monotonic()
    claimed = await connection.fetch("SELECT * FROM dtq_claim($1, $2, $3, 1.0)", worker, [id_], [TYPE])
    assert len(claimed) == 1, "the task was not claimed"
    running = "SELECT status = 'RUNNING' FROM tasks WHERE id = $1"
    taken = await _while(connection, running, id_, pause_seconds=0.1, seconds=RECOVERY_SECONDS)
    return {"taken_back": taken, "seconds_after_the_claim": round(time.monotonic() - began, 1)}


async def stale(count: int) -> dict[str, Any]:
    """Drain and enqueue with the statistics of a table in which everything has succeeded."""
    figures: dict[str, Any] = {}
    async with _superuser() as connection, _statements_counted(connection), _traceless(connection):
        await connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = false)")
        try:
            for workers in (1, 2):
                await connection.execute("ANALYZE tasks")
                await connection.execute("CHECKPOINT")
                wal, calls = await connection.fetchval("SELECT pg_current_wal_lsn()"), await statements(connection)
                drained = await drain(os.environ["DB_DSN"], count, workers)
                written = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1)::float8", wal)
                drained["wal_bytes_per_task"] = round(written / drained["tasks"])
                if calls is not None and (now := await statements(connection)) is not None:
                    drained["statements_per_task"] = round((now - calls) / drained["tasks"], 3)
                figures[f"drain {workers}"] = drained
            await connection.execute("ANALYZE tasks")
            figures["enqueue"] = await asyncio.to_thread(enqueue, 8)
        finally:
            await connection.execute("ALTER TABLE tasks RESET (autovacuum_enabled)")
    return figures


@asynccontextmanager
async def _traceless(connection: Any) -> AsyncIterator[None]:
    """Delete, at the end of the block, the tasks that were made in it, their history and their messages."""
    began = await connection.fetchval("SELECT now()")
    try:
        yield
    finally:
        await connection.execute(
            "WITH gone AS (DELETE FROM tasks WHERE id >= $1 AND queue_set = 'bench' RETURNING id)"
            " DELETE FROM task_events e USING gone g WHERE e.task_id = g.id AND e.at >= $2",
            _id_at(began),
            began,
        )
        await _purge()


async def _purge() -> None:
    environ = os.environ
    vhost = urllib.parse.quote(environ["RMQ_VHOST"], safe="")
    user, password = (urllib.parse.quote(environ[name], safe="") for name in ("RMQ_USER", "RMQ_PASS"))
    broker = await aiormq.connect(f"amqp://{user}:{password}@{environ['RMQ_HOST']}:{environ['RMQ_PORT']}/{vhost}")
    channel = await broker.channel()
    await channel.queue_purge("bench.default")
    await broker.close()


@asynccontextmanager
async def _statements_counted(connection: Any) -> AsyncIterator[None]:
    """Have pg_stat_statements in the database until the end of the block, where the server preloads it."""
    there = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements')")
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    try:
        yield
    finally:
        if not there:
            await connection.execute("DROP EXTENSION pg_stat_statements")


async def _while(connection: Any, question: str, *args: Any, pause_seconds: float, seconds: float) -> bool:
    """Wait while the answer is true; return False if it is after so many seconds."""
    until = time.monotonic() + seconds
    while await connection.fetchval(question, *args):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(pause_seconds)
    return True


async def _has(connection: Any, table: str) -> bool:
    """Return whether this release has a table: an older one is measured with the same scenes."""
    return await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table) is True


def _id_at(at: datetime) -> UUID:
    """Return the least id of that time: version 7 begins with its milliseconds."""
    return UUID(int=int(at.timestamp() * 1000) << 80 | 7 << 76 | 8 << 60)


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _spread(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {
        "p50": round(statistics.median(times), 1),
        "p99": round(times[math.ceil(len(times) * 0.99) - 1], 1),
        "max": round(times[-1], 1),
    }


@asynccontextmanager
async def _superuser() -> AsyncIterator[Any]:
    connection = await asyncpg.connect(os.environ["DB_ADMIN_DSN"], command_timeout=3600)
    try:
        yield connection
    finally:
        await connection.close()


def main() -> None:
    """Run one scene."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("scene", choices=["fill", "clear", "lists", "burst", "rest", "recovery", "stale"])
    parser.add_argument("--rows", type=int, default=6_000_000, help="finished tasks to fill in (default 6000000)")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks due at once, or to drain (default 100000)")
    parser.add_argument("--seconds", type=int, default=300, help="length of the rest (default 300)")
    parser.add_argument("--replicas", type=int, default=2, help="API processes at rest (default 2)")
    parser.add_argument("--requests", type=int, default=200, help="requests of each list (default 200)")
    chosen = parser.parse_args()
    run_dtq("apply", "-f", "bench/manifests.yaml")
    scenes: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "fill": lambda: fill(chosen.rows),
        "clear": clear,
        "lists": lambda: lists(chosen.requests),
        "burst": lambda: burst(chosen.tasks),
        "rest": lambda: rest(chosen.seconds, chosen.replicas),
        "recovery": recovery,
        "stale": lambda: stale(chosen.tasks),
    }
    print(json.dumps(asyncio.run(scenes[chosen.scene]()), indent=2))


if __name__ == "__main__":
    main()

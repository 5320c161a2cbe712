"""`python -m bench.growth`: what a large table costs those who look for something else; beside a running local stack.

Owns the scenes: lists, a burst, rest, recovery, and statistics of the opposite state. Must never judge: it prints.
"""

import argparse
import asyncio
import json
import os
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg

from bench.measures import TYPE, drain, enqueue
from bench.processes import dtq, run_dtq

CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")
BURST_SECONDS: Final = 900.0
"""Longest wait for a burst to be started, in seconds."""
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


async def fill(rows: int, worker: UUID | None = None) -> None:
    """Have so many finished tasks of one worker in the table, and fresh statistics of them."""
    connection = await _superuser()
    await connection.execute("SET session_replication_role = replica")
    worker = worker or uuid4()
    for first in range(1, rows + 1, 500_000):
        await connection.execute(LOAD, rows, worker, first, min(rows, first + 499_999))
    await connection.execute("VACUUM ANALYZE tasks")
    await connection.close()


async def lists(count: int) -> dict[str, Any]:
    """Ask for the first page of each filter, in turn; milliseconds."""
    took: dict[str, list[float]] = {filter_: [] for filter_ in FILTERS}
    refused = 0
    with dtq("api", "HTTP_PORT") as url:
        for _ in range(count):
            for filter_ in FILTERS:
                began = time.perf_counter()
                try:
                    _get(f"{url}/tasks?{filter_}")
                except urllib.error.HTTPError:
                    refused += 1
                took[filter_].append((time.perf_counter() - began) * 1e3)
    return {"refused": refused} | {name or "all": _spread(times) for name, times in took.items()}


async def burst(due: int) -> dict[str, Any]:
    """Have so many tasks due at once; how late each starts, and what a client sees of the API meanwhile."""
    connection = await asyncpg.connect(os.environ["DB_DSN"], command_timeout=600)
    with ExitStack() as stack:
        url = stack.enter_context(dtq("api", "HTTP_PORT"))
        stack.enter_context(dtq("worker", "WORKER_HTTP_PORT"))
        at = await connection.fetchval(
            "INSERT INTO tasks (id, type, queue_set, queue, status, payload, run_at, needs_publish, publish_at)"
            " SELECT (lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint), 12, '0') || '70008'"
            " || lpad(to_hex(n), 15, '0'))::uuid, $1, 'bench', 'default', 'ENQUEUED', '{}', s.at, true, s.at"
            " FROM generate_series(1, $2) n, (SELECT now() + interval '15 seconds' AS at) s RETURNING run_at",
            TYPE,
            due,
        )
        over = threading.Event()
        watching = asyncio.create_task(asyncio.to_thread(_watch, url, over))
        started = 0
        until = time.monotonic() + BURST_SECONDS
        while started < due and time.monotonic() < until:
            await asyncio.sleep(1)
            started = await connection.fetchval("SELECT count(*) FROM tasks WHERE run_at = $1 AND attempts > 0", at)
        over.set()
        waits = await watching
    late = await connection.fetchval(
        "SELECT extract(epoch FROM max(e.at) - $1::timestamptz)::float8 FROM task_events e"
        " JOIN tasks t ON t.id = e.task_id"
        " WHERE e.event = 'RUNNING' AND t.run_at = $1 AND e.at > now() - interval '1 hour'",
        at,
    )
    await connection.close()
    return {"due": due, "started": started, "last_late_s": round(late, 1), "GET ms": _spread(waits)}


def _watch(url: str, over: threading.Event) -> list[float]:
    waits = []
    while not over.wait(0.05):
        began = time.perf_counter()
        _get(f"{url}/tasks?limit=1")
        waits.append((time.perf_counter() - began) * 1e3)
    return waits


async def rest(seconds: int, replicas: int) -> dict[str, Any]:
    """Let replicas of the API, and a worker, do nothing; what that costs, in statements and CPU seconds a second."""
    connection = await _superuser()
    await connection.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
    with ExitStack() as stack:
        for _ in range(replicas):
            stack.enter_context(dtq("api", "HTTP_PORT"))
        stack.enter_context(dtq("worker", "WORKER_HTTP_PORT"))
        await asyncio.sleep(30)  # what is done once after a start is not rest
        with _counted() as cpu:
            before = await connection.fetchval("SELECT sum(calls) FROM pg_stat_statements")
            read = await connection.fetchval("SELECT sum(blks_read) FROM pg_stat_database")
            await asyncio.sleep(seconds)
            after = await connection.fetchval("SELECT sum(calls) FROM pg_stat_statements")
            read = await connection.fetchval("SELECT sum(blks_read) FROM pg_stat_database") - read
    await connection.close()
    return {
        "statements_per_second": round((after - before) / seconds, 2),
        "read_kB_per_second": round(read * 8 / seconds, 1),
        "cores": {name: round(used / seconds, 4) for name, used in cpu.items()},
    }


async def recovery() -> dict[str, Any]:
    """Let a worker that has run everything in the table die with a running task; seconds until it is taken back."""
    connection = await _superuser()
    worker = await connection.fetchval("SELECT worker_id FROM tasks WHERE status = 'SUCCEEDED' LIMIT 1")
    await connection.execute("SET max_parallel_workers_per_gather = 0")
    id_ = uuid4()
    await connection.execute(
        "INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)"
        " VALUES ($1, 'old', '{default}', '{bench.noop.v1}', 8, now() + interval '15 seconds')",
        worker,
    )
    await connection.execute(
        "INSERT INTO tasks (id, type, queue_set, queue, status, payload, needs_publish, publish_at)"
        " VALUES ($1, $2, 'bench', 'default', 'ENQUEUED', '{}', false, now())",
        id_,
        TYPE,
    )
    await connection.fetch("SELECT * FROM dtq_claim($1, $2, $3, 1.0)", worker, [id_], [TYPE])
    with dtq("api", "HTTP_PORT"):
        began = time.monotonic()
        while await connection.fetchval("SELECT status FROM tasks WHERE id = $1", id_) == "RUNNING":
            if time.monotonic() - began > RECOVERY_SECONDS:
                return {"taken_back": False}
            await asyncio.sleep(0.1)
        return {"taken_back": True, "seconds": round(time.monotonic() - began, 1)}


async def stale(count: int) -> dict[str, Any]:
    """Drain and enqueue with the statistics of a table in which everything has succeeded."""
    connection = await _superuser()
    await connection.execute("ALTER TABLE tasks SET (autovacuum_enabled = false)")
    await connection.execute("ANALYZE tasks")
    dsn = os.environ["DB_DSN"]
    wal = await connection.fetchval("SELECT pg_current_wal_lsn()")
    figures: dict[str, Any] = {}
    for workers in (1, 2):
        await connection.execute("ANALYZE tasks")
        figures[f"drain {workers}"] = await drain(dsn, count, workers)
    done = sum(figures[f"drain {workers}"]["tasks"] for workers in (1, 2))
    written = await connection.fetchval("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), $1)", wal)
    figures["wal_bytes_per_task"] = round(float(written) / done)
    await connection.execute("ANALYZE tasks")
    figures["enqueue"] = await asyncio.to_thread(enqueue, 8)
    await connection.close()
    return figures


@contextmanager
def _counted() -> Iterator[dict[str, float]]:
    """Give the CPU seconds that Postgres and dtq use until the end of the block."""
    used: dict[str, float] = {}
    before = _cpu()
    yield used
    after = _cpu()
    used |= {name: after[name] - before.get(name, 0.0) for name in after}


def _cpu() -> dict[str, float]:
    used: dict[str, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        for name, needle in (("api", "dtq_cli api"), ("worker", "dtq_cli worker"), ("postgres", "postgres:")):
            if needle in command:
                used[name] = used.get(name, 0.0) + (int(fields[11]) + int(fields[12])) / CLOCK_TICKS
    return used


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def _spread(times: list[float]) -> dict[str, float]:
    times = sorted(times)
    return {
        "p50": round(statistics.median(times), 1),
        "p99": round(times[min(len(times) - 1, int(len(times) * 0.99))], 1),
        "max": round(times[-1], 1),
    }


async def _superuser() -> Any:
    return await asyncpg.connect(os.environ.get("DB_ADMIN_DSN", os.environ["DB_DSN"]), command_timeout=3600)


def main() -> None:
    """Run one scene."""
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("scene", choices=["fill", "lists", "burst", "rest", "recovery", "stale"])
    parser.add_argument("--rows", type=int, default=6_000_000, help="finished tasks to fill in (default 6000000)")
    parser.add_argument("--tasks", type=int, default=100_000, help="tasks due at once, or to drain (default 100000)")
    parser.add_argument("--seconds", type=int, default=300, help="length of the rest (default 300)")
    parser.add_argument("--replicas", type=int, default=2, help="API processes at rest (default 2)")
    chosen = parser.parse_args()
    run_dtq("apply", "-f", "bench/manifests.yaml")
    scenes: dict[str, Callable[[], Coroutine[Any, Any, Any]]] = {
        "fill": lambda: fill(chosen.rows),
        "lists": lambda: lists(100),
        "burst": lambda: burst(chosen.tasks),
        "rest": lambda: rest(chosen.seconds, chosen.replicas),
        "recovery": recovery,
        "stale": lambda: stale(chosen.tasks),
    }
    print(json.dumps(asyncio.run(scenes[chosen.scene]()), indent=2))


if __name__ == "__main__":
    main()

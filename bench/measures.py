"""What `bench.growth` measures at each size: enqueue over HTTP, and a drain. The figures are printed, not judged."""

import asyncio
import json
import time
import urllib.request
from contextlib import ExitStack
from typing import Any, Final

import asyncpg

from bench.processes import dtq, empty_server
from bench.wrk import http_load

TYPE: Final = "bench.noop.v1"
DRAIN_SECONDS: Final = 300.0
"""Longest wait for a drain, in seconds."""
_LEFT: Final = """
SELECT EXISTS (SELECT FROM tasks WHERE needs_publish AND queue_set = 'bench')
    OR EXISTS (SELECT FROM tasks WHERE NOT needs_publish AND queue_set = 'bench')
    OR EXISTS (SELECT FROM tasks WHERE status = 'RUNNING' AND queue_set = 'bench'
        AND id >= rpad(lpad(to_hex(floor(extract(epoch FROM $1::timestamptz) * 1000)::bigint), 12, '0'), 32, '0')::uuid)
"""
"""Whether a drain goes on: asked by what waits, and then by the newest ids, so that a large table costs it nothing."""


def enqueue(seconds: int) -> dict[str, Any]:
    """Enqueue over HTTP as fast as the connections of wrk can, beside an empty POST on the same machine."""
    with dtq("api", "HTTP_PORT") as url:
        ours = _load(url, seconds)
    with empty_server() as url:
        empty = _load(url, seconds)
    return {"dtq": ours, "empty POST": empty, "ratio": round(ours["per_second"] / empty["per_second"], 3)}


async def drain(dsn: str, count: int, workers: int) -> dict[str, Any]:
    """Store `count` tasks without a worker, then let `workers` take them; the rate of the middle 80 %."""
    connection = await asyncpg.connect(dsn)
    try:
        with dtq("api", "HTTP_PORT") as url:
            began = await connection.fetchval("SELECT clock_timestamp()")
            _store(url, count)
            await _run_workers(connection, began, workers)
        rows = await connection.fetch(
            "SELECT at FROM task_events WHERE event = 'SUCCEEDED' AND at >= $1 ORDER BY at", began
        )
    finally:
        await connection.close()
    first, last = rows[len(rows) // 10]["at"], rows[len(rows) * 9 // 10]["at"]
    rate = len(rows) * 0.8 / (last - first).total_seconds()
    return {"tasks": len(rows), "workers": workers, "per_second": round(rate)}


def _load(url: str, seconds: int) -> dict[str, Any]:
    load = http_load(url, seconds)
    return {
        "per_second": round(load["count"] / load["seconds"]),
        "p50_ms": round(load["p50_ms"], 1),
        "p99_ms": round(load["p99_ms"], 1),
    }


def _store(url: str, count: int) -> None:
    stored = 0
    while stored < count:
        stored += _load(url, 3)["per_second"] * 3


async def _run_workers(connection: Any, began: Any, workers: int) -> None:
    with ExitStack() as stack:
        for _ in range(workers):
            stack.enter_context(dtq("worker", "WORKER_HTTP_PORT"))
        until = time.monotonic() + DRAIN_SECONDS
        while await connection.fetchval(_LEFT, began):
            if time.monotonic() > until:
                raise SystemExit(f"tasks are left after {DRAIN_SECONDS:g} s")
            await asyncio.sleep(0.2)


def post(url: str) -> Any:
    """Enqueue one task; return the answer."""
    body = json.dumps({"type": TYPE, "payload": {}}).encode()
    request = urllib.request.Request(f"{url}/enqueue", data=body, headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)

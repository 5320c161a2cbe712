"""The three measurements. They return figures for people to compare, without a verdict."""

import asyncio
import json
import re
import shutil
import statistics
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.processes import dtq, empty_server

TYPE: Final = "bench.noop.v1"
CONNECTIONS: Final = 64
DRAIN_SECONDS: Final = 300.0
"""Longest wait for a drain, in seconds."""
_LEFT: Final = """
SELECT EXISTS (SELECT FROM tasks WHERE needs_publish AND queue_set = 'bench')
    OR EXISTS (SELECT FROM tasks WHERE NOT needs_publish AND queue_set = 'bench')
    OR EXISTS (SELECT FROM tasks WHERE status = 'RUNNING' AND queue_set = 'bench'
        AND id >= rpad(lpad(to_hex(floor(extract(epoch FROM $1::timestamptz) * 1000)::bigint), 12, '0'), 32, '0')::uuid)
"""
"""Whether a drain goes on: asked by what waits, and then by the newest ids, so that a large table costs it nothing."""
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"type": "%s", "payload": {"n": 1}}'
done = function(summary, latency)
  io.write(string.format("FIGURES %%d %%d %%d %%d %%d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), summary.errors.status + summary.errors.timeout))
end
"""


def enqueue(seconds: int) -> dict[str, Any]:
    """Enqueue over HTTP as fast as CONNECTIONS clients can, beside an empty POST on the same machine."""
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


def latency(count: int) -> dict[str, Any]:
    """Post single tasks, one after the other; milliseconds from the POST to the beginning of its handler."""
    waits: list[float] = []
    with dtq("api", "HTTP_PORT") as url, dtq("worker", "WORKER_HTTP_PORT"):
        for _ in range(count + 20):
            posted_ns = time.time_ns()
            task_id = post(url)["id"]
            waits.append((_began_ns(url, task_id) - posted_ns) / 1e6)
    waits = sorted(waits[20:])
    return {"tasks": count, "p50_ms": round(statistics.median(waits), 1), "p99_ms": round(waits[int(count * 0.99)], 1)}


def _load(url: str, seconds: int) -> dict[str, Any]:
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_SCRIPT % TYPE)
        command = ["wrk", f"-c{CONNECTIONS}", "-t1", f"-d{seconds}s", "--latency", "-s", str(script), f"{url}/enqueue"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r"FIGURES (\d+) (\d+) (\d+) (\d+) (\d+)", out)
    assert found is not None, out
    requests, microseconds, p50, p99, errors = map(int, found.groups())
    return {
        "per_second": round(requests / (microseconds / 1e6)),
        "p50_ms": round(p50 / 1000, 1),
        "p99_ms": round(p99 / 1000, 1),
        "errors": errors,
    }


def _store(url: str, count: int) -> None:
    stored = 0
    while stored < count:
        figures = _load(url, 3)
        assert figures["errors"] == 0, figures
        stored += figures["per_second"] * 3


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


def _began_ns(url: str, task_id: str) -> int:
    while True:
        with urllib.request.urlopen(f"{url}/tasks/{task_id}", timeout=10) as answer:
            task = json.load(answer)
        if task["status"] == "SUCCEEDED":
            return int(task["result"]["began_ns"])

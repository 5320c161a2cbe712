"""dtq with API and worker at once: what both carry together, and the latencies at parts of that, open loop."""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from bench.contestants import DTQ
from bench.group import ProgramError, run
from bench.ratios import percentile
from bench.record import Sample
from bench.rounds import Bench

PARTS: Final = (0.1, 0.5, 0.8)
"""Of the maximum."""
SHARES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
SETTLE_SECONDS: Final = 60.0
"""Longest wait for the last tasks, in seconds."""
WARM_SECONDS: Final = 1.0
"""Load before the measurement, in seconds: the processes have just started."""
LOAD_SECONDS_MAX: Final = 60.0
_LEFT: Final = "SELECT count(*) FROM tasks WHERE status IN ('ENQUEUED', 'RUNNING')"
_DONE: Final = "SELECT count(*) FROM tasks WHERE status = 'SUCCEEDED'"
_ENDED: Final = """
SELECT extract(epoch FROM pg_xact_commit_timestamp(e.xmin))::float8 * 1e3 - (t.payload->>'sent_ns')::bigint / 1e6 AS ms
FROM task_events e JOIN tasks t ON t.id = e.task_id
WHERE e.event = 'SUCCEEDED' AND (t.payload->>'sent_ns')::bigint >= $1
ORDER BY ms
"""


async def measure(bench: Bench, seconds: float) -> list[Sample]:
    """Measure the maximum, then each part of it for so long."""
    async with bench.dtq_at_work() as (url, dsn):
        connection = await asyncpg.connect(dsn)
        try:
            most = await _maximum(url, connection, seconds)
            found = [Sample(contestant=DTQ, measure="sustained", count=round(most * seconds), per_second=most)]
            for part in PARTS:
                bench.tally.forget()
                found.append(await _part(bench, url, connection, part, most * part, seconds))
        finally:
            await connection.close()
    return found


async def _maximum(url: str, connection: Any, seconds: float) -> float:
    """Return the rate at which tasks are accepted and run, when as many come as can."""
    await _all_it_can(url, WARM_SECONDS)
    before: int = await connection.fetchval(_DONE)
    load = await _all_it_can(url, seconds)
    after: int = await connection.fetchval(_DONE)
    await _settled(connection)
    return round(min(after - before, int(load["count"])) / float(load["seconds"]), 1)


async def _all_it_can(url: str, seconds: float) -> dict[str, Any]:
    """Load with the same client as the open loop, which costs as much of the cores."""
    command = [sys.executable, "-m", "bench.peers.programs.dtq_peer", "concurrent", "--seconds", f"{seconds}"]
    output = await asyncio.to_thread(run, command, {"BENCH_URL": url}, timeout_seconds=seconds + LOAD_SECONDS_MAX)
    load: dict[str, Any] = json.loads(output)
    return load


async def _part(bench: Bench, url: str, connection: Any, part: float, rate: float, seconds: float) -> Sample:
    began_ns = time.time_ns()
    command = [sys.executable, "-m", "bench.open_loop", url, "--rate", f"{rate}", "--seconds", f"{seconds}"]
    output = await asyncio.to_thread(run, command, {}, timeout_seconds=seconds + LOAD_SECONDS_MAX)
    load = json.loads(output)
    if load["refused"]:
        raise ProgramError(f"{load['refused']} of the requests were refused at {rate:.0f}/s")
    await _settled(connection)
    ended = [row["ms"] for row in await connection.fetch(_ENDED, began_ns)]
    latency = {"offered": rate, "started": _shares(bench.tally.waits_ms()), "succeeded": _shares(ended)}
    return Sample(
        contestant=DTQ,
        measure=f"load{part * 100:.0f}",
        count=load["accepted"],
        per_second=round(load["accepted"] / load["seconds"], 1),
        latency=latency,
    )


async def _settled(connection: Any) -> None:
    """Wait until nothing waits or runs."""
    until = time.perf_counter() + SETTLE_SECONDS
    while left := await connection.fetchval(_LEFT):
        if time.perf_counter() > until:
            raise ProgramError(f"{left} tasks are left after {SETTLE_SECONDS:g} s")
        await asyncio.sleep(0.05)


def _shares(ordered: Sequence[float]) -> dict[str, float]:
    return {name: round(percentile(ordered, share), 2) for name, share in SHARES.items()}

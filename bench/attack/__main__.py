"""`python -m bench.attack`: a tenant under attack by another, against the same tenant in quiet times.

Runs beside the servers of a local stack, in which `dtq migrate` has been run. The attackers get CPU time only when
no other process wants it: what they use themselves must not count as damage on a small machine. Exit code 1: a limit is
broken. The history of the tasks stays in `task_events` until its retention ends.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.attack.victim import Seen, enqueue_steadily
from bench.attack.watch import Watch
from bench.attack.world import VICTIM, Tenants, apply_manifests, history, make_tenants, running, starts

P99_RATIO_MAX: Final = 3.0
"""How much slower the victim's requests may be under attack, at the 99th percentile."""
RSS_MIB_MAX: Final = 256
"""Most memory of the API, and of the worker, in MiB."""
LIVEZ_SECONDS_MAX: Final = 1.0
"""Longest answer of `/livez`, in seconds: the kubelet's default timeout."""
WARM_UP_SECONDS: Final = 5
"""How long the victim enqueues before it is measured, in seconds."""


async def measure(tenants: Tenants, only: list[str], rows: int, quiet_seconds: int, seconds: int) -> dict[str, Any]:
    """Return the figures of a quiet time and of an attack."""
    with ExitStack() as stack:
        port, api = stack.enter_context(running("api", "HTTP_PORT", tenants.environ))
        _, worker = stack.enter_context(running("worker", "WORKER_HTTP_PORT", {}))
        async with history(rows) as connection, Watch(port, {"api": api, "worker": worker}) as watch:
            token = tenants.tokens[VICTIM]
            await enqueue_steadily(port, token, "warm-up", WARM_UP_SECONDS)
            began = datetime.now(UTC)
            quiet = await enqueue_steadily(port, token, "quiet", quiet_seconds)
            quiet_starts = await starts(connection, began)
            watch.reset()
            began = datetime.now(UTC)
            attack = asyncio.create_task(
                _attack({"port": port, "tokens": tenants.tokens, "only": only, "seconds": seconds + 1})
            )
            attacked = await enqueue_steadily(port, token, "attacked", seconds)
            answers = await attack
            return {
                "attackers": f"on the same machine ({os.cpu_count()} cores), scheduling policy IDLE, nice -n 19",
                "quiet": quiet.figures() | {"starts": quiet_starts},
                "attacked": attacked.figures() | {"starts": await starts(connection, began)},
                "broken": _broken(quiet, attacked, watch),
                "p99_ratio": round(attacked.p99 / quiet.p99, 2),
                **watch.figures(),
                "attacks": answers,
            }


async def _attack(order: dict[str, Any]) -> Any:
    process = await asyncio.create_subprocess_exec(
        "chrt",
        *("--idle", "0", "nice", "-n", "19", sys.executable, "-m", "bench.attack.attackers"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    answers, _ = await process.communicate(json.dumps(order).encode())
    assert process.returncode == 0, "the attackers failed: see their output above"
    return json.loads(answers)


def _broken(quiet: Seen, attacked: Seen, watch: Watch) -> list[str]:
    """Return which limits are broken."""
    found = []
    if attacked.p99 > P99_RATIO_MAX * quiet.p99:
        found.append(f"the victim's p99 under attack is {attacked.p99 / quiet.p99:.1f} times the quiet one")
    if attacked.server_errors:
        found.append(f"{attacked.server_errors} of the victim's requests got 5xx, or no answer")
    if watch.livez_seconds > LIVEZ_SECONDS_MAX:
        found.append(f"/livez took {watch.livez_seconds:.1f} s")
    found.extend(f"{name} took {mib} MiB" for name, mib in watch.rss_mib.items() if mib > RSS_MIB_MAX)
    return found


def main() -> None:
    """Attack, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    parser.add_argument("--seconds", type=int, default=300, help="length of the attack (default 300)")
    parser.add_argument("--quiet-seconds", type=int, default=60, help="length of the quiet time (default 60)")
    parser.add_argument("--rows", type=int, default=200_000, help="failed tasks of the victim (default 200000)")
    parser.add_argument("--only", nargs="+", default=[], help="just these attacks, such as flood (default: all)")
    chosen = parser.parse_args()
    apply_manifests()
    with tempfile.TemporaryDirectory() as folder:
        tenants = make_tenants(Path(folder))
        figures = asyncio.run(measure(tenants, chosen.only, chosen.rows, chosen.quiet_seconds, chosen.seconds))
    print(json.dumps(figures, indent=2))
    sys.exit(1 if figures["broken"] else 0)


if __name__ == "__main__":
    main()

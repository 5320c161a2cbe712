"""`python -m bench`: measures and prints, beside a running local stack."""

import argparse
import asyncio
import json
import os

from bench import measures
from bench.processes import run_dtq


def main() -> None:
    """Run the measurements that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Plain figures of this machine.")
    parser.add_argument("--only", choices=["enqueue", "drain", "latency"], help="just this one")
    parser.add_argument("--seconds", type=int, default=10, help="length of each HTTP load (default 10)")
    parser.add_argument("--tasks", type=int, default=20_000, help="tasks of a drain, at least (default 20000)")
    parser.add_argument("--workers", type=int, default=1, help="worker processes of a drain (default 1)")
    chosen = parser.parse_args()
    run_dtq("apply", "-f", "bench/manifests.yaml")
    wanted = [chosen.only] if chosen.only else ["enqueue", "drain", "latency"]
    figures = {}
    if "latency" in wanted:
        figures["latency"] = measures.latency(200)
    if "drain" in wanted:
        figures["drain"] = asyncio.run(measures.drain(os.environ["DB_DSN"], chosen.tasks, chosen.workers))
    if "enqueue" in wanted:
        figures["enqueue"] = measures.enqueue(chosen.seconds)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

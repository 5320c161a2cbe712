"""The command line of the fault runs: `python -m tests.faults --help`."""

import argparse
import asyncio
import shutil
import sys
import time
from pathlib import Path
from typing import Final

from tests.faults import guarantees, report
from tests.faults.campaign import Campaign, Job
from tests.faults.regressions import REGRESSIONS
from tests.faults.schedule import generate, kill_loop
from tests.support.system import REPOSITORY

PER_SECOND: Final = 15.0
REPORT: Final = REPOSITORY / "docs" / "fault-report.md"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="Break dtq on purpose.")
    parser.add_argument("--state", type=Path, default=Path(".faults"), help="where results and histories are kept")
    parser.add_argument("--fresh", action="store_true", help="forget what an earlier run left there")
    parser.add_argument("--worlds", type=int, default=2, help="systems that are broken side by side")
    parser.add_argument("--per-second", type=float, default=PER_SECOND, help="requests a second on each of them")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    schedules = verbs.add_parser("schedules", help="what once failed, then the schedules of consecutive seeds")
    schedules.add_argument("--first", type=int, default=0, help="the first seed")
    schedules.add_argument("--count", type=int, default=40, help="how many in all")
    long = verbs.add_parser("long", help="a kill loop, a soak, and many schedules")
    long.add_argument("--kill-loop-minutes", type=float, default=30.0)
    long.add_argument("--soak-minutes", type=float, default=15.0)
    long.add_argument("--count", type=int, default=200, help="how many schedules")
    verbs.add_parser("report", help=f"write {REPORT.relative_to(REPOSITORY)} from the results")
    verbs.add_parser("named", help="show the files of the tests that docs/guarantees.md names")
    shown = verbs.add_parser("guarantees", help="write docs/guarantees.md, taking over results")
    shown.add_argument("--junit", type=Path, nargs="*", default=[], help="what `pytest --junit-xml` wrote")
    return parser


def _schedules(first: int, count: int) -> list[Job]:
    known = [Job(name=f"regression-{at}", schedule=regression.schedule) for at, regression in enumerate(REGRESSIONS)]
    seeds = range(first, first + max(0, count - len(known)))
    return [*known, *(Job(name=f"seed-{seed}", schedule=generate(seed)) for seed in seeds)]


def _jobs(given: argparse.Namespace) -> list[Job]:
    if given.verb == "schedules":
        return _schedules(given.first, given.count)
    soak_seconds = given.soak_minutes * 60
    return [
        Job(name="kill-loop", schedule=kill_loop(0, given.kill_loop_minutes * 60)),
        Job(name="soak", schedule=kill_loop(0, 0), least_seconds=soak_seconds),
        *_schedules(0, given.count),
    ]


def main() -> int:
    """Run the command; the exit code is 1 if a promise was broken or a run failed to start."""
    given = _parser().parse_args()
    if given.fresh:
        shutil.rmtree(given.state, ignore_errors=True)
    campaign = Campaign(given.state, per_second=given.per_second, say=_say)
    if given.verb == "report":
        report.write(campaign.outcomes(), campaign.runs, REPORT)
        return 0
    if given.verb == "named":
        files = {test.partition("::")[0] for test in guarantees.named() if not test.startswith(guarantees.SCHEDULES)}
        sys.stdout.write("\n".join(sorted(files)) + "\n")
        return 0
    if given.verb == "guarantees":
        guarantees.record(given.junit, campaign.outcomes())
        guarantees.PAGE.write_text(guarantees.page(guarantees.results()))
        return 0
    jobs = _jobs(given)
    asyncio.run(campaign.run(jobs, worlds=given.worlds))
    failed = [outcome.name for outcome in campaign.outcomes() if outcome.problems]
    undone = sorted({job.name for job in jobs} - {outcome.name for outcome in campaign.outcomes()})
    _say(f"{len(campaign.outcomes())} runs, {len(failed)} failed {failed}, {len(undone)} not made {undone}")
    return 1 if failed or undone else 0


def _say(line: str) -> None:
    """Print a line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

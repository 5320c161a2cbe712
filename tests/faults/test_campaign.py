"""Campaigns: what is done stays done, and the report tells what was found."""

import json
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from tests.faults import report
from tests.faults.campaign import Campaign, Job
from tests.faults.history import History, Injected, Sample, save
from tests.faults.run import Outcome
from tests.faults.schedule import KINDS, Kind, generate, kill_loop

FAILURE = "I3: task 7: attempt 2 follows attempt 2"


def an_outcome(seed: int, *problems: str) -> Outcome:
    return Outcome(
        name=f"seed-{seed}",
        seed=seed,
        faults=[str(fault) for fault in generate(seed).faults],
        seconds=20.0,
        problems=list(problems),
        ready_seconds=3.5,
        recovered_seconds=7.0,
        statuses={"201": 90, "503": 10},
        counts={"attempted": 100, "acknowledged": 90, "ok": 90, "lost": 0, "duplicated": 1},
        duplicates={"lease expired": 1},
    )


def saved(state: Path, *outcomes: Outcome) -> Campaign:
    state.mkdir()
    (state / "results.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    return Campaign(state, per_second=1, say=lambda _: None)


async def test_a_campaign_that_goes_on_runs_nothing_again(tmp_path: Path) -> None:
    campaign = saved(tmp_path / "state", an_outcome(0), an_outcome(1))
    jobs = [Job(name=f"seed-{seed}", schedule=generate(seed)) for seed in (0, 1)]
    began = time.monotonic()
    await campaign.run(jobs, worlds=2)
    assert time.monotonic() - began < 5
    assert campaign.outcomes() == [an_outcome(0), an_outcome(1)]


def test_a_report_says_that_every_promise_held(tmp_path: Path) -> None:
    campaign = saved(tmp_path / "state", *(an_outcome(seed) for seed in range(len(KINDS))))
    for outcome in campaign.outcomes():
        samples = [Sample(at=1000.0 + at, process="system", finished_total=at * 5) for at in range(20)]
        fault = Injected(at=1004.0, until=1006.0, name="kill", target="api-0")
        save(History(samples=samples, faults=[fault]), campaign.runs / outcome.name)
    page = tmp_path / "report.md"
    report.write(campaign.outcomes(), campaign.runs, page)
    text = page.read_text()
    assert "Every promise held" in text
    assert f"| acknowledged | {90 * len(KINDS)} |" in text
    assert f"Why they could: lease expired ({len(KINDS)})" in text
    assert all(f"`{kind}`" in text for kind in KINDS)
    assert (tmp_path / "report" / "schedules.svg").read_text().count("<polyline") == 1


def test_a_report_leaves_no_failure_out(tmp_path: Path) -> None:
    campaign = saved(tmp_path / "state", an_outcome(0), an_outcome(1, FAILURE))
    page = tmp_path / "report.md"
    report.write(campaign.outcomes(), campaign.runs, page)
    text = page.read_text()
    assert "1 of 2 runs broke a promise" in text
    assert FAILURE in text
    assert "| over-attempts | 1 |" in text


def test_a_kill_loop_kills_every_few_seconds_and_crashes_both_servers() -> None:
    faults = kill_loop(0, 600).faults
    kills = sorted(fault.at_seconds for fault in faults if fault.kind is Kind.KILL)
    assert all(0.9 <= later - sooner <= 5.1 for sooner, later in pairwise(kills))
    assert {fault.kind for fault in faults} == {Kind.KILL, Kind.BROKER_KILL, Kind.POSTGRES_RESTART}
    assert kill_loop(0, 600) == kill_loop(0, 600)

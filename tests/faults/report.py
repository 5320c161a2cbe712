"""The report of a campaign: Markdown for people, and plots of the throughput through the faults.

Every failure is reported, and none is rounded away.
"""

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from hack.stack import postgres
from tests.faults.history import Call, History, Sample, load
from tests.faults.observer import SYSTEM
from tests.faults.plot import Line, Mark, draw, rates, slope
from tests.faults.regressions import REGRESSIONS
from tests.faults.run import Outcome

WINDOW_SECONDS: Final = 5.0
"""Over how long a throughput is drawn, in seconds."""
LONG_SECONDS: Final = 600.0
"""A run that lasts longer gets a plot of its own, in seconds."""
SETTLE_SHARE: Final = 0.5
"""The first part of a soak, in which caches and arenas fill: no slope is taken of it."""
CREATED: Final = 201
DRAWN_MAX: Final = 40
"""How many schedules are drawn one behind the other."""


def write(outcomes: Sequence[Outcome], runs: Path, target: Path) -> None:
    """Write the report to `target` and its pictures beside it."""
    pictures = target.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    parts = [_head(outcomes), _totals(outcomes), _recovery(outcomes)]
    long = [outcome for outcome in outcomes if outcome.seconds > LONG_SECONDS]
    for outcome in long:
        history = load(runs / outcome.name)
        picture = pictures / f"{outcome.name}.svg"
        picture.write_text(_throughput(outcome.name, [history]))
        parts.append(f"## {outcome.name}\n\n{_in_words(outcome)}\n\n![throughput]({pictures.name}/{picture.name})")
        if not outcome.faults:
            memory = pictures / f"{outcome.name}-memory.svg"
            memory.write_text(_memory(history))
            parts.append(f"![memory]({pictures.name}/{memory.name})\n\n{_slopes(history)}")
    short = [outcome for outcome in outcomes if outcome not in long and (runs / outcome.name).is_dir()]
    if short:
        picture = pictures / "schedules.svg"
        drawn = short[:DRAWN_MAX]
        picture.write_text(
            _throughput(f"{len(drawn)} schedules in a row", [load(runs / outcome.name) for outcome in drawn])
        )
        parts.append(f"## Schedules\n\n![throughput]({pictures.name}/{picture.name})\n\n{_kinds(short)}")
    parts += [_failures(outcomes), _found()]
    target.write_text("\n\n".join(part for part in parts if part) + "\n")


def _head(outcomes: Sequence[Outcome]) -> str:
    commits = Counter(outcome.commit for outcome in outcomes)
    ran = ", ".join(f"{commit} ({count} runs)" for commit, count in commits.items())
    folder = postgres.binaries()
    servers = f"Postgres {folder.parent.name if folder else '?'} and RabbitMQ of Debian, one node each"
    failed = [outcome.name for outcome in outcomes if outcome.problems]
    verdict = f"**{len(failed)} of {len(outcomes)} runs broke a promise.**" if failed else "**Every promise held.**"
    return (
        "# Fault report\n\n"
        f"Written by `python -m tests.faults report` on {datetime.now(UTC):%Y-%m-%d}, of the code at {ran}: "
        f"{os.cpu_count()} cores, Python {platform.python_version()}, {servers}; two APIs and "
        "two workers on each system. [guarantees.md](guarantees.md) says what is promised and which test holds it. "
        f"Run it again with `make faults-long`.\n\n{verdict}"
    )


def _totals(outcomes: Sequence[Outcome]) -> str:
    counts: dict[str, int] = defaultdict(int)
    statuses: dict[str, int] = defaultdict(int)
    duplicates: Counter[str] = Counter()
    for outcome in outcomes:
        for name, count in outcome.counts.items():
            counts[name] += count
        duplicates.update(outcome.duplicates)
        for status, count in outcome.statuses.items():
            statuses[status] += count
    reasons = ", ".join(f"{why} ({count})" for why, count in duplicates.most_common())
    meanings = {
        "attempted": "tasks that the client asked for",
        "acknowledged": "of them promised by a 2xx",
        "ok": "promised, and come to their end",
        "lost": "promised, and not come to their end",
        "unexpected": "rows, events or runs that nobody asked for",
        "duplicated": f"handler runs that did again what was done. Why they could: {reasons or '-'}",
        "recovered": "tasks whose request had no answer, and that came to their end",
    }
    broken = {name: _violations(outcomes, name) for name in ("I3", "I4", "I5")}
    rows = [
        ("runs", len(outcomes), "schedules, kill loop, soak"),
        ("faults", sum(len(outcome.faults) for outcome in outcomes), "that were injected"),
        *((name, counts[name], meaning) for name, meaning in meanings.items()),
        ("over-attempts", broken["I3"], "tasks with more, repeated or missing attempts (I3)"),
        ("changes after the end", broken["I4"], "terminal tasks that changed (I4)"),
        ("second results", broken["I5"], "tasks with more than one recorded success (I5)"),
        ("answers", sum(statuses.values()), ", ".join(f"{_status(key)}: {statuses[key]}" for key in sorted(statuses))),
        (
            "slowest answer",
            f"{max((outcome.slowest_seconds for outcome in outcomes), default=0):.1f} s",
            "of all requests",
        ),
    ]
    return "## Totals\n\n" + _table(("", "Count", "Meaning"), rows)


def _recovery(outcomes: Sequence[Outcome]) -> str:
    ready = [outcome.ready_seconds for outcome in outcomes if outcome.faults and outcome.ready_seconds is not None]
    back = [
        outcome.recovered_seconds for outcome in outcomes if outcome.faults and outcome.recovered_seconds is not None
    ]
    rows = [
        ("every process ready", *_spread(ready), "60 s"),
        ("90 % of the throughput", *_spread(back), "120 s"),
    ]
    return "## After the last fault\n\n" + _table(("", "median", "90 %", "worst", "allowed"), rows)


def _kinds(outcomes: Sequence[Outcome]) -> str:
    """Say for each kind of fault how the schedules went that had it."""
    by_kind: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        for kind in {fault.split()[3] for fault in outcome.faults}:
            by_kind[kind].append(outcome)
    rows = [
        (
            f"`{kind}`",
            len(some),
            sum(bool(outcome.problems) for outcome in some),
            *(_spread([outcome.ready_seconds for outcome in some if outcome.ready_seconds is not None])[::2]),
            *(_spread([outcome.recovered_seconds for outcome in some if outcome.recovered_seconds is not None])[::2]),
        )
        for kind, some in sorted(by_kind.items())
    ]
    head = ("Fault", "Schedules", "Failed", "Ready, median", "worst", "Throughput back, median", "worst")
    return _table(head, rows)


def _failures(outcomes: Sequence[Outcome]) -> str:
    failed = [outcome for outcome in outcomes if outcome.problems]
    if not failed:
        return ""
    return "## Broken promises\n\n" + "\n\n".join(
        f"### {outcome.name}\n\n```\n" + "\n".join([*outcome.faults, "", *outcome.problems]) + "\n```"
        for outcome in failed
    )


def _found() -> str:
    """Return the failures that earlier runs found: each was fixed, and every run tries its schedule again."""
    rows = [
        ("<br>".join(str(fault) for fault in regression.schedule.faults), regression.found)
        for regression in REGRESSIONS
    ]
    return (
        "## What earlier runs found\n\nEach was mended, and its schedule is the first that every run tries.\n\n"
        + _table(("Schedule", "Found"), rows)
    )


def _throughput(title: str, histories: Sequence[History]) -> str:
    """Draw accepted and finished tasks a second, histories one behind the other."""
    accepted: list[tuple[float, float]] = []
    finished: list[tuple[float, float]] = []
    marks: list[Mark] = []
    offset = 0.0
    for history in histories:
        totals = [
            (sample.at, float(sample.finished_total))
            for sample in _system(history)
            if sample.finished_total is not None
        ]
        if not totals:
            continue
        began = totals[0][0]
        calls = [(call.ended_at, float(number)) for number, call in enumerate(_accepted(history), start=1)]
        finished += [(offset + at - began, rate) for at, rate in rates(totals, WINDOW_SECONDS)]
        accepted += [(offset + at - began, rate) for at, rate in rates(calls, WINDOW_SECONDS)]
        marks += [
            Mark(
                since=offset + max(0.0, fault.at - began),
                until=offset + max(0.0, fault.until - began),
                heavy=len(histories) == 1 and not fault.target,
            )
            for fault in history.faults
        ]
        offset += totals[-1][0] - began
    lines = [Line(name="accepted", points=accepted)] if accepted else []
    return draw(title, [*lines, Line(name="finished", points=finished)], marks, unit="tasks a second")


def _accepted(history: History) -> list[Call]:
    return sorted((call for call in history.client if call.status == CREATED), key=lambda call: call.ended_at)


def _memory(history: History) -> str:
    lines = [
        Line(name=name, points=[(at, value / 2**20) for at, value in points])
        for name, points in _series(history, "rss_bytes").items()
    ]
    return draw("memory of each process", lines, unit="MiB")


def _slopes(history: History) -> str:
    """Say what grew after the caches had filled."""
    rows = []
    for what, scale, unit in (("rss_bytes", 3600 / 1024**2, "MiB"), ("fds", 3600.0, ""), ("connections", 3600.0, "")):
        for process, points in _series(history, what).items():
            late = points[int(len(points) * SETTLE_SHARE) :]
            values = [value for _, value in late]
            if values:
                per_hour = slope(late) * scale
                factor = scale / 3600
                spread = f"{min(values) * factor:.0f} to {max(values) * factor:.0f} {unit}".strip()
                rows.append((process, what.removesuffix("_bytes"), spread, f"{per_hour:+.2f} {unit} an hour"))
    return _table(("Process", "Of", "Range", "Slope"), rows)


def _series(history: History, what: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    began = history.samples[0].at if history.samples else 0.0
    for sample in history.samples:
        value = getattr(sample, what)
        if value is not None:
            found[sample.process].append((sample.at - began, float(value)))
    return found


def _system(history: History) -> Iterable[Sample]:
    return (sample for sample in history.samples if sample.process == SYSTEM)


def _in_words(outcome: Outcome) -> str:
    counts = ", ".join(f"{count} {name}" for name, count in outcome.counts.items())
    return (
        f"{outcome.seconds / 60:.0f} minutes, {len(outcome.faults)} faults: {counts}. "
        f"Ready {outcome.ready_seconds} s after the last fault, at rest {outcome.quiet_seconds} s after the load; "
        f"slowest answer {outcome.slowest_seconds} s."
    )


def _violations(outcomes: Sequence[Outcome], invariant: str) -> int:
    return sum(problem.startswith(f"{invariant}:") for outcome in outcomes for problem in outcome.problems)


def _spread(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return ("-", "-", "-")
    ordered = sorted(values)
    picked = (ordered[len(ordered) // 2], ordered[int((len(ordered) - 1) * 0.9)], ordered[-1])
    return (f"{picked[0]:.1f} s", f"{picked[1]:.1f} s", f"{picked[2]:.1f} s")


def _status(key: str) -> str:
    return "none (the process was not there)" if key == "0" else key


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)

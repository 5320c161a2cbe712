"""The report of a run, `docs/benchmarks.md`, and its plots: all of it is made of the record.

`python -m bench.report` makes it again from the record of the last run.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench import ratios
from bench.contestants import DTQ
from bench.plot import Bar, bars, figure
from bench.ratios import Spread
from bench.record import RECORD, Record

REPORT: Final = RECORD.with_suffix(".md")
RATES: Final = {
    "single": "one call after the other",
    "concurrent": "concurrent calls",
    "bulk": "1,000 in one call",
    "drain1": "drain, 1 worker",
    "drain2": "drain, 2 workers",
}
PLOTS: Final = {
    "drain1": "Tasks a second that one worker runs",
    "drain2": "Tasks a second that two workers run",
    "concurrent": "Tasks a second that one client process enqueues, concurrent calls",
}
PARTS: Final = {
    "concurrent": ("client", "api", "postgres", "rabbitmq"),
    "drain1": ("worker", "postgres", "rabbitmq"),
}
COUNTED: Final = ("wal_bytes", "statements", "commits")
NOTHING: Final = "-"
NOT_MEASURED: Final = "not measured"
HEAD: Final = """\
# Benchmarks

Made by `make bench` from [benchmarks.json](benchmarks.json), which its last run wrote; a test compares the two.
Handlers do nothing but count themselves. Everything is durable: persistent messages, confirmed publishes, late
acknowledgements, `fsync` on. In each round, every contestant runs each measure in turn, so that a ratio compares
neighbours in time. **Compare ratios: rates are this machine's.** A figure is the median of the rounds, with the
smallest and the largest in brackets.
"""
MEASURES: Final = """\
- *Enqueue*: one client process for a few seconds. dtq's client pays for HTTP and an API process; the others have none.
  Concurrent: 64 connections of wrk for dtq; 64 coroutines or goroutines, or 16 threads, for the others.
- *Drain*: the rate between 15 % and 95 % of the tasks that wait. Where a contestant stores the end of a task, 95 %
  counts when it is stored. Nothing else runs meanwhile.
- *Idle*: from the call that enqueues to the beginning of the handler, one task each 20 ms.
- Statements and commits include those of starting and stopping the workers. WAL is what statements wrote: commit
  records and vacuum are not in it.
"""


def write(record: Record) -> None:
    """Write the report and its plots."""
    for path, content in files(record).items():
        path.write_text(content)


def files(record: Record) -> dict[Path, str]:
    """Return the content of every file of the report."""
    return {REPORT: text(record)} | {plot_path(measure): plot(record, measure) for measure in PLOTS}


def plot_path(measure: str) -> Path:
    """Return where a plot is."""
    return RECORD.with_name(f"benchmarks-{measure}.svg")


def plot(record: Record, measure: str) -> str:
    """Return the plot of a measure, the highest rate first."""
    found = {who: Spread.of(ratios.rates(record, who, measure).values()) for who in record.facts["contestants"]}
    known = [Bar(who, spread, who == DTQ) for who, spread in found.items() if spread]
    return bars(PLOTS[measure], "/s", sorted(known, key=lambda bar: -bar.spread.median))


def text(record: Record) -> str:
    """Return the report."""
    sections = (_machine, _goals, _rates, _costs, _under_load, _limits, _configuration, _failures)
    return "\n".join([HEAD, *(line for section in sections for line in section(record)), ""])


def _machine(record: Record) -> Iterator[str]:
    facts, machine, servers = record.facts, record.facts["machine"], record.facts["servers"]
    sizes = facts["sizes"]
    settings = ", ".join(f"`{name} = {value}`" for name, value in servers["settings"].items())
    yield (
        f"{facts['date']}, commit {facts['commit']}, {sizes['rounds']} rounds in {facts['minutes']:g} minutes"
        f" (loads of {sizes['seconds']:g} s, {sizes['load_seconds']:g} s under load, drains of {sizes['drain']:g} of"
        f" their size, {sizes['idle']} idle tasks)."
        f" {machine['cores']} cores ({machine['cpu']}), {machine['memory_GB']} GB, Linux {machine['kernel']}, Python"
        f" {machine['python']}, Postgres {servers['postgres']}, RabbitMQ {servers['rabbitmq']}. Load, servers and"
        f" workers shared the cores; the host took {machine['steal']:.1%} of them away. Of Postgres: {settings}.\n"
    )


def _goals(record: Record) -> Iterator[str]:
    wanted, ceilings = ratios.ranges()
    yield "## Goals\n"
    yield from _table("figure of dtq", "measured", "goal", "met")
    for goal in wanted:
        ratio = goal.ratio(record)
        met = NOT_MEASURED if ratio is None else _yes(met=ratio.median >= goal.goal)
        yield _row(goal.name, _spread(ratio), f"≥ {goal.goal:g}", met)
    for ceiling in ceilings:
        value = ceiling.value(record)
        met = NOT_MEASURED if value is None else _yes(met=value.median <= ceiling.goal)
        yield _row(ceiling.name, _spread(value, f" {ceiling.unit}"), f"≤ {ceiling.goal:g} {ceiling.unit}", met)
    yield "\nA ratio divides two rates of the same round; of the ratios, the median counts.\n"


def _rates(record: Record) -> Iterator[str]:
    yield "## Rates and latency\n"
    yield MEASURES
    yield from _table("tasks a second", *RATES.values(), "idle p50 ms", "idle p99 ms")
    for who in record.facts["contestants"]:
        rates = [_spread(Spread.of(ratios.rates(record, who, measure).values())) for measure in RATES]
        waits = [_spread(ratios.idle(record, who, share)) for share in (0.5, 0.99)]
        yield _row(who, *rates, *waits)
    for measure, title in PLOTS.items():
        yield f"\n![{title}]({plot_path(measure).name})"
    yield ""


def _costs(record: Record) -> Iterator[str]:
    yield "## What a task costs\n"
    yield "Medians. CPU in microseconds; WAL in bytes. The client of dtq is wrk.\n"
    for measure, parts in PARTS.items():
        yield from _table(RATES[measure], "WAL", "statements", "commits", *(f"CPU {part}" for part in parts))
        for who in record.facts["contestants"]:
            if ratios.samples(record, who, measure):
                counted = [ratios.per_task(record, who, measure, name) for name in COUNTED]
                spent = [ratios.cpu(record, who, measure, part) for part in parts]
                yield _row(who, *(figure(each.median) if each else NOTHING for each in (*counted, *spent)))
        yield ""


def _under_load(record: Record) -> Iterator[str]:
    yield "## Latency under load\n"
    most = Spread.of(ratios.rates(record, DTQ, "sustained").values())
    yield (
        f"API, one worker, servers and load on the same cores carry {_spread(most)} tasks a second together. At parts"
        " of that rate, requests are sent at random times when they are due, whether or not earlier ones were answered,"
        " and each wait is counted from then (no coordinated omission). Milliseconds, from when the POST was due to the"
        " beginning of the handler, and to the commit that stores SUCCEEDED.\n"
    )
    yield from _table("load", "rate", *(f"{end} {name}" for end in ("handler", "SUCCEEDED") for name in SHARES))
    for part in ("load10", "load50", "load80"):
        found = ratios.samples(record, DTQ, part)
        rate = Spread.of(sample.per_second for sample in found if sample.per_second is not None)
        waits = [
            _spread(Spread.of(sample.latency[end][name] for sample in found))
            for end in ("started", "succeeded")
            for name in SHARES
        ]
        yield _row(f"{part.removeprefix('load')} %", _spread(rate), *waits)
    yield ""


def _limits(record: Record) -> Iterator[str]:
    yield "## Raw limits\n"
    yield from _table("limit", "a second", "what it is")
    for name, meaning in record.facts["limits"].items():
        yield _row(name.removeprefix("raw-"), _spread(Spread.of(ratios.rates(record, name, "limit").values())), meaning)
    yield ""


def _configuration(record: Record) -> Iterator[str]:
    yield "## Configuration\n"
    yield from _table("contestant", "stores", "versions", "configuration")
    for who, known in record.facts["contestants"].items():
        yield _row(who, known["stores"], known["versions"], "; ".join(known["configuration"]))
    yield ""


def _failures(record: Record) -> Iterator[str]:
    yield "## What could not be measured\n"
    yield from [f"- {error}" for error in record.errors] or ["Nothing failed."]


SHARES: Final = ("p50", "p99", "p99.9")


def _table(*titles: str) -> Iterator[str]:
    yield _row(*titles)
    yield _row(*("---" for _ in titles))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def _spread(spread: Spread | None, unit: str = "") -> str:
    if spread is None:
        return NOTHING
    return f"{figure(spread.median)}{unit} ({figure(spread.low)} to {figure(spread.high)})"


def _yes(*, met: bool) -> str:
    return "yes" if met else "**no**"


if __name__ == "__main__":
    write(Record.read(RECORD))

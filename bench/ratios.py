"""Figures of a record: medians with their spread, paired ratios, percentiles. Pure."""

import math
import statistics
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.contestants import DTQ
from bench.record import Record, Sample

RANGES: Final = Path(__file__).with_name("ranges.toml")


@dataclass(frozen=True, slots=True)
class Spread:
    """The median, the smallest and the largest of a figure over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread | None":
        """Return the spread; None without values."""
        known = list(values)
        return cls(statistics.median(known), min(known), max(known)) if known else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """What one ratio should be.

    Attributes:
        name: for the report.
        measure: of dtq.
        against: whose rate divides dtq's.
        against_measure: of that contestant.
        goal: what we want.
        floor: below it, `make bench-check` fails.
    """

    name: str
    measure: str
    against: str
    against_measure: str
    goal: float
    floor: float

    def ratio(self, record: Record) -> Spread | None:
        """Return the ratio of dtq to the other, paired within each round."""
        ours, theirs = rates(record, DTQ, self.measure), rates(record, self.against, self.against_measure)
        return Spread.of(ours[number] / theirs[number] for number in ours if number in theirs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceiling:
    """A figure of dtq that should not be larger."""

    name: str
    figure: str
    goal: float
    unit: str

    def value(self, record: Record) -> Spread | None:
        """Return the figure."""
        return FIGURES[self.figure](record)


def ranges(path: Path = RANGES) -> tuple[list[Range], list[Ceiling]]:
    """Read the goals."""
    content = tomllib.loads(path.read_text())
    return (
        [Range(**{"against_measure": entry["measure"], **entry}) for entry in content["ratio"]],
        [Ceiling(**entry) for entry in content["ceiling"]],
    )


def samples(record: Record, contestant: str, measure: str) -> list[Sample]:
    """Return the samples of one measure."""
    return [sample for sample in record.samples if (sample.contestant, sample.measure) == (contestant, measure)]


def rates(record: Record, contestant: str, measure: str) -> Mapping[int, float]:
    """Return the rate of each round."""
    found = samples(record, contestant, measure)
    return {sample.round: sample.per_second for sample in found if sample.per_second is not None}


def per_task(record: Record, contestant: str, measure: str, name: str) -> Spread | None:
    """Return WAL bytes, statements or commits a task."""
    return Spread.of(s.per_task[name] for s in samples(record, contestant, measure) if name in s.per_task)


def cpu(record: Record, contestant: str, measure: str, part: str) -> Spread | None:
    """Return CPU microseconds a task of one part."""
    return Spread.of(s.cpu_us[part] for s in samples(record, contestant, measure) if part in s.cpu_us)


def idle(record: Record, contestant: str, share: float) -> Spread | None:
    """Return a percentile of the idle latency in milliseconds, by round."""
    found = samples(record, contestant, "idle")
    return Spread.of(percentile(sample.latency_ms, share) for sample in found if sample.latency_ms)


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that is not smaller than this share of all."""
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def _wal(record: Record) -> Spread | None:
    stored = {s.round: s.per_task["wal_bytes"] for s in samples(record, DTQ, "concurrent")}
    drained = {s.round: s.per_task["wal_bytes"] for s in samples(record, DTQ, "drain1")}
    return Spread.of(stored[number] + drained[number] for number in stored if number in drained)


FIGURES: Final[Mapping[str, Callable[[Record], Spread | None]]] = {
    "worker_cpu_us": lambda record: cpu(record, DTQ, "drain1", "worker"),
    "wal_bytes": _wal,
    "idle_p50_ms": lambda record: idle(record, DTQ, 0.5),
    "idle_p99_ms": lambda record: idle(record, DTQ, 0.99),
}

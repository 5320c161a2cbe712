"""The record of a run: one JSON file, from which the report is made. Samples stand one to a line."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Self

RECORD: Final = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One measurement of one contestant in one round.

    Attributes:
        count: tasks that were counted.
        per_second: the rate.
        per_task: WAL bytes, statements and commits of the database.
        cpu_us: CPU microseconds a task by part.
        latency_ms: each wait from the call that enqueues to the beginning of the handler, sorted.
        latency: percentiles instead, of a load of many tasks.
    """

    count: int
    round: int = 0
    contestant: str = ""
    measure: str = ""
    per_second: float | None = None
    per_task: Mapping[str, float] = field(default_factory=dict)
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    latency_ms: tuple[float, ...] = ()
    latency: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run.

    Attributes:
        facts: machine, versions, settings, sizes, configuration: everything but figures.
        samples: in the order in which they were measured.
        errors: what could not be measured, and why.
    """

    facts: Mapping[str, Any]
    samples: tuple[Sample, ...]
    errors: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file."""
        content = json.loads(path.read_text())
        samples = tuple(
            Sample(**{**sample, "latency_ms": tuple(sample.get("latency_ms", ()))}) for sample in content["samples"]
        )
        return cls(facts=content["facts"], samples=samples, errors=tuple(content["errors"]))

    def write(self, path: Path) -> None:
        """Write a file."""
        lines = ",\n".join(json.dumps(_compact(sample)) for sample in self.samples)
        facts, errors = json.dumps(self.facts, indent=1), json.dumps(self.errors, indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{{"facts": {facts},\n"errors": {errors},\n"samples": [\n{lines}\n]}}\n')


def _compact(sample: Sample) -> dict[str, Any]:
    """Leave out what a sample does not have, and figures beyond four digits behind the point."""
    return {name: _rounded(value) for name, value in asdict(sample).items() if value not in ((), {}, None)}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    return value

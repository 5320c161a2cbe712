"""The verdict on a history: I1..I20 of the guarantee, and the counts of the report.

Pure: the same history gives the same verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.faults.history import History, load
from tests.faults.invariants import acceptance, attempts, delivery, service, upkeep
from tests.faults.invariants.index import TERMINAL, Index, Limits, Rule, accepted

RULES: Final[Mapping[str, Rule]] = {
    "I1": acceptance.accepted_tasks_end,
    "I2": acceptance.nothing_is_unexpected,
    "I3": attempts.attempts_are_counted,
    "I4": attempts.terminal_is_final,
    "I5": attempts.success_is_recorded_once,
    "I6": attempts.leases_do_not_overlap,
    "I7": delivery.nothing_is_forgotten,
    "I8": delivery.dead_letters_match,
    "I9": delivery.confirms_hold,
    "I10": acceptance.keys_are_idempotent,
    "I11": service.use_is_bounded,
    "I12": service.it_recovers_alone,
    "I13": service.answers_are_fast_and_closed,
    "I14": service.data_plane_is_independent,
    "I15": upkeep.secrets_stay,
    "I16": service.it_drains,
    "I17": delivery.nothing_is_early,
    "I18": upkeep.it_is_as_declared,
    "I19": upkeep.every_type_makes_progress,
    "I20": upkeep.metrics_are_true,
}
SHOWN_MAX: Final = 5
"""Most violations of one invariant that a report shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """The findings about one invariant.

    Attributes:
        checked: number of checked instances; with 0, the invariant is undecided, not proven.
    """

    checked: int
    violations: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """The outcomes of the tasks.

    Attributes:
        attempted: tasks that were asked for.
        acknowledged: tasks that were promised by a 2xx.
        ok: of those, the ones that came to their end.
        lost: of those, the ones that did not.
        unexpected: rows, events and runs without a request.
        duplicated: handler runs after a success.
        recovered: tasks whose request had no answer, and that came to their end.
    """

    attempted: int
    acknowledged: int
    ok: int
    lost: int
    unexpected: int
    duplicated: int
    recovered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The judgement of a history.

    Attributes:
        duplicates: the duplicated handler runs by their reason.
    """

    counts: Counts
    duplicates: Mapping[str, int]
    rulings: Mapping[str, Ruling]

    @property
    def is_valid(self) -> bool:
        """Whether every invariant held."""
        return not self.problems

    @property
    def problems(self) -> list[str]:
        """Every violation, with its invariant."""
        return [f"{name}: {text}" for name, ruling in self.rulings.items() for text in ruling.violations]

    @property
    def undecided(self) -> list[str]:
        """Invariants without an instance in this history."""
        return [name for name, ruling in self.rulings.items() if not ruling.checked]

    def __str__(self) -> str:
        """Return the report: counts, then a few violations of each invariant."""
        counts = ", ".join(f"{getattr(self.counts, name)} {name}" for name in Counts.__slots__)
        lines = [f"{'valid' if self.is_valid else 'INVALID'}: {counts}"]
        for name, ruling in self.rulings.items():
            lines += [f"  {name}: {text}" for text in ruling.violations[:SHOWN_MAX]]
            if len(ruling.violations) > SHOWN_MAX:
                lines.append(f"  {name}: and {len(ruling.violations) - SHOWN_MAX} more")
        if self.undecided:
            lines.append(f"  undecided: {' '.join(self.undecided)}")
        return "\n".join(lines)


def check(history: History, limits: Limits | None = None) -> Verdict:
    """Judge a history."""
    index = Index(history, limits or Limits())
    rulings = {}
    for name, rule in RULES.items():
        found = list(rule(index))
        rulings[name] = Ruling(
            checked=len(found), violations=[violation for violation in found if violation is not None]
        )
    duplicates = attempts.duplicates(index)
    return Verdict(counts=_counts(index, rulings, duplicates.total()), duplicates=duplicates, rulings=rulings)


def check_folder(folder: Path, limits: Limits | None = None) -> Verdict:
    """Judge the history in a folder.

    Raises:
        ValueError: a file is not what a history holds.
    """
    return check(load(folder), limits)


def _counts(index: Index, rulings: Mapping[str, Ruling], duplicated: int) -> Counts:
    ended = {id_ for id_ in index.acknowledged if any(event.event in TERMINAL for event in index.moves(id_)[-1:])}
    in_doubt = [
        row
        for row in index.rows.values()
        if row.status in TERMINAL and (calls := index.asked(row)) and not any(accepted(call) for call in calls)
    ]
    return Counts(
        attempted=len(index.calls),
        acknowledged=len(index.acknowledged),
        ok=len(ended),
        lost=len(index.acknowledged) - len(ended),
        unexpected=len(rulings["I2"].violations),
        duplicated=duplicated,
        recovered=len(in_doubt),
    )

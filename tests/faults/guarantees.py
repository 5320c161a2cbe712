"""Writes `docs/guarantees.md`: what is promised, and which test shows it in every cell of the fault matrix.

Results come only from JUnit files of pytest and from fault campaigns.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

from tests.faults import matrix
from tests.faults.run import Outcome
from tests.faults.schedule import KINDS
from tests.support.system import REPOSITORY

PAGE: Final = REPOSITORY / "docs" / "guarantees.md"
PROMISES: Final = Path(__file__).with_name("promises.md")
RESULTS: Final = Path(__file__).with_name("results.json")
SCHEDULES: Final = "faults:"
PASSED: Final = "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The last result of a test.

    Attributes:
        on: the day.
        cases: how many cases or schedules it had.
    """

    result: str
    on: str
    cases: int


def named() -> list[str]:
    """Return every test that the matrix or a promise names."""
    return list(
        dict.fromkeys([*matrix.tests(), *re.findall(r"\]\((tests/[^)]+|faults:[^)]+)\)", PROMISES.read_text())])
    )


def exists(test: str) -> bool:
    """Return whether there is a test of that name."""
    if test.startswith(SCHEDULES):
        return test.removeprefix(SCHEDULES) in {*KINDS, "kill-loop", "soak"}
    path, _, name = test.partition("::")
    file = REPOSITORY / path
    if not file.is_file():
        return False
    nodes = ast.walk(ast.parse(file.read_text()))
    functions = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return name in functions or name in re.findall(r"^(test_\w+) = ", file.read_text(), re.MULTILINE)


def results() -> dict[str, Result]:
    """Return the last results by test."""
    return {test: Result(**result) for test, result in json.loads(RESULTS.read_text()).items()}


def record(reports: Iterable[Path], outcomes: Iterable[Outcome]) -> None:
    """Record the results of the named tests from JUnit files and campaigns."""
    wanted = set(named())
    found: dict[str, list[str]] = {}
    for report in reports:
        for test, result in _cases(report):
            found.setdefault(test, []).append(result)
    for outcome in outcomes:
        result = "failed" if outcome.problems else PASSED
        kinds = {fault.split()[3] for fault in outcome.faults} if outcome.name.startswith("seed") else {outcome.name}
        for kind in kinds:
            found.setdefault(SCHEDULES + kind, []).append(result)
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    known = results() if RESULTS.exists() else {}
    for test in wanted & found.keys():
        worst = next((outcome for outcome in found[test] if outcome != PASSED), PASSED)
        known[test] = Result(result=worst, on=today, cases=len(found[test]))
    kept = {test: asdict(known[test]) for test in sorted(known) if test in wanted}
    RESULTS.write_text(json.dumps(kept, indent=1) + "\n")


def page(known: Mapping[str, Result]) -> str:
    """Return the page."""
    return "\n".join([_linked(PROMISES.read_text(), known), *_table(known)])


def _table(known: Mapping[str, Result]) -> Iterator[str]:
    for fault, row in matrix.MATRIX.items():
        yield f"### {fault}\n"
        yield "| Step | What must happen | Shown by | Last result |\n|---|---|---|---|"
        for cells in row:
            steps = ", ".join(matrix.STEPS[letter] for letter in cells.steps)
            shown = "<br>".join(_link(test) for test in cells.tests)
            ended = "<br>".join(_ended(known.get(test)) for test in cells.tests)
            yield f"| {steps} | {cells.answer} | {shown} | {ended} |"
        yield ""


def _linked(text: str, known: Mapping[str, Result]) -> str:
    """Return the promises with links to the files, and the result of each test."""

    def link(match: re.Match[str]) -> str:
        return f"{_link(match[2], match[1])} ({_ended(known.get(match[2]))})"

    return re.sub(r"\[([^\]]+)\]\((tests/[^)]+|faults:[^)]+)\)", link, text)


def _link(test: str, words: str | None = None) -> str:
    if test.startswith(SCHEDULES):
        return f"[{words or f'schedules: {test.removeprefix(SCHEDULES)}'}](#how-it-is-tested)"
    path, _, name = test.partition("::")
    return f"[{words or name.removeprefix('test_').replace('_', ' ')}](../{path})"


def _ended(result: Result | None) -> str:
    return f"{result.result} {result.on}, {result.cases}x" if result else "not run yet"


def _cases(report: Path) -> Iterator[tuple[str, str]]:
    for case in ET.parse(report).iter("testcase"):
        place = case.attrib["classname"].replace(".", "/")
        name = case.attrib["name"].partition("[")[0]
        parent, _, child = place.rpartition("/")
        # A class of tests, as a state machine's, stands for the name that the module gives it.
        file = f"{place}.py" if (REPOSITORY / f"{place}.py").is_file() else f"{parent}.py"
        test = name if file.startswith(place) else child
        failed = case.find("failure") is not None or case.find("error") is not None
        yield f"{file}::{test}", "failed" if failed else PASSED

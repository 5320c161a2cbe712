"""The published guarantees: complete, fresh, and about tests that exist and passed."""

import re

import pytest

from tests.faults import guarantees, matrix
from tests.faults.schedule import KINDS


@pytest.mark.parametrize("test", guarantees.named())
def test_what_shows_a_guarantee_exists(test: str) -> None:
    assert guarantees.exists(test), f"no test of that name: {test}"


@pytest.mark.parametrize("test", guarantees.results())
def test_the_last_result_of_what_shows_a_guarantee_is_a_pass(test: str) -> None:
    assert guarantees.results()[test].result == guarantees.PASSED


@pytest.mark.parametrize("fault", list(matrix.MATRIX))
def test_every_cell_is_shown_by_a_test_that_has_run(fault: str) -> None:
    known = guarantees.results()
    unshown = [cells.steps for cells in matrix.MATRIX[fault] if not known.keys() & set(cells.tests)]
    assert not unshown, "run `make guarantees`"


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert not guarantees.exists("tests/db/test_races.py::test_nothing")
    assert not guarantees.exists("tests/nowhere.py::test_nothing")
    assert not guarantees.exists("faults:earthquake")


def test_the_page_is_fresh() -> None:
    assert guarantees.PAGE.read_text() == guarantees.page(guarantees.results()), "run `make guarantees`"


@pytest.mark.parametrize("fault", list(matrix.MATRIX))
def test_no_step_of_a_fault_is_answered_twice_and_each_has_a_test(fault: str) -> None:
    row = matrix.MATRIX[fault]
    steps = "".join(cells.steps for cells in row)
    assert len(set(steps)) == len(steps)
    assert set(steps) <= set(matrix.STEPS)
    assert all(cells.tests for cells in row)


def test_every_kind_of_fault_shows_something() -> None:
    shown = {test.removeprefix("faults:") for test in matrix.tests() if test.startswith("faults:")}
    assert set(KINDS) <= shown


def test_every_promise_is_shown_by_a_test() -> None:
    text = guarantees.PROMISES.read_text()
    promised = text.split("## What is promised")[1].split("## ")[0]
    sentences = re.split(r"\n(?=\d+\. )", promised.strip())
    assert len(sentences) == 9
    assert all("](" in sentence for sentence in sentences)

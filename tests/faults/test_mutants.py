"""The mutants follow the code that they change: a stale one would only be found by `make faults-selftest`."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS, without_fence
from tests.support.system import REPOSITORY


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.file])
def test_a_mutant_changes_its_file(name: str, tmp_path: Path) -> None:
    MUTANTS[name].copy_to(tmp_path)


def test_the_mutant_of_the_fence_changes_its_function() -> None:
    schema = (REPOSITORY / "db" / "dtq_db" / "schema" / "0004_pre_transitions.sql").read_text()
    finish = schema[schema.index("FUNCTION dtq_finish(") :]
    without_fence(finish[: finish.index("$$;")])

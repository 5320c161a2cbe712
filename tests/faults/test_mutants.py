"""The mutants follow the code that they change: a stale one would only be found by `make faults-selftest`."""

from pathlib import Path

import pytest

from tests.faults.mutants import MUTANTS


@pytest.mark.parametrize("name", [name for name, mutant in MUTANTS.items() if mutant.file])
def test_a_mutant_changes_its_file(name: str, tmp_path: Path) -> None:
    MUTANTS[name].copy_to(tmp_path)

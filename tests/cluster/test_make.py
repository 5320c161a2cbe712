"""Every target of a cluster works on a fresh clone: it makes the Python environment first."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = re.findall(r"^([a-z][a-z0-9-]*):(.*?)##", "".join(
    file.read_text() for file in [ROOT / "Makefile", *sorted((ROOT / "hack").glob("*.mk"))]
), re.MULTILINE)  # fmt: skip
WITHOUT_PYTHON = {"help", "clean"}


@pytest.mark.parametrize(("target", "needs"), TARGETS, ids=[target for target, _ in TARGETS])
def test_a_target_that_runs_python_makes_the_environment_first(target: str, needs: str) -> None:
    needed = needs.split()
    makes_it = "$(VENV)" in needed or any(
        other in needed and "$(VENV)" in prerequisites for other, prerequisites in TARGETS
    )
    assert makes_it or target in WITHOUT_PYTHON

"""The menu: every target works alone on a fresh clone, and builds what it needs before a time limit starts."""

import os
import re
import subprocess
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


def make(*arguments: str) -> str:
    """What make prints when a person runs it, even if these tests are run by make."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def commands(target: str) -> list[str]:
    """What a target would run where the environment is made already."""
    return make("-n", target).splitlines()


def test_the_menu_is_in_groups() -> None:
    groups = re.findall(r"^(\S.*)$", make("help"), re.MULTILINE)
    assert groups == ["Local stack", "Cluster", "Quality", "Faults and benchmarks", "Images and release"]


@pytest.mark.parametrize(
    ("target", "first"),
    [
        ("e2e", "hack.cluster prepare --addons keda prometheus"),
        ("e2e", "hack.images build"),
        ("e2e-smoke", "hack.cluster prepare"),
        ("e2e-smoke", "hack.images build"),
        ("test-chart", "hack.cluster source kubernetes keda prometheus-operator"),
        ("test-images", "hack.images build dtq"),
        ("test-cluster", "hack.cluster tools etcd kube-apiserver kubectl helm kubeconform"),
    ],
)
def test_what_a_suite_needs_is_built_before_its_tests_start(target: str, first: str) -> None:
    ran = commands(target)
    (tests,) = [number for number, line in enumerate(ran) if "-m pytest" in line]
    assert any(first in line for line in ran[:tests])


def test_unit_tests_need_no_package_and_no_server() -> None:
    (ran,) = [line for line in commands("unit") if "bootstrap" not in line]
    assert re.search(r"-m pytest .*tests/unit *$", ran)

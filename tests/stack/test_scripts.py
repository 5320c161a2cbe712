"""The scripts that people run: they parse, explain themselves, and a bad call is told."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ["up", "down", "destroy", "db-apply", "db-seed-type", "init", "api", "worker", "logs", "ps", "config"]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("shell", "script"), [("sh", "hack/bootstrap"), ("bash", ".ci/run")])
def test_a_script_parses(shell: str, script: str) -> None:
    done = run(shell, "-n", script)
    assert done.returncode == 0, done.stderr


def test_bootstrap_explains_itself() -> None:
    done = run("hack/bootstrap", "--help")
    assert done.returncode == 0
    assert "usage: hack/bootstrap" in done.stdout


def test_bootstrap_refuses_what_it_does_not_know() -> None:
    done = run("hack/bootstrap", "--force")
    assert done.returncode == 2
    assert "usage" in done.stderr


@pytest.mark.parametrize("target", [*TARGETS, "db-shell", "lint", "types", "test", "fmt", "verify", "clean"])
def test_help_lists_the_target(target: str) -> None:
    done = run("make", "help")
    assert re.search(rf"^  {target} +\S", done.stdout, re.MULTILINE), done.stdout


def test_ci_runs_what_a_contributor_runs() -> None:
    commands = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and line[0] != "#"]
    assert commands == ["set -euo pipefail", 'cd "$(dirname "$0")/.."', "make verify"]


def test_a_wrong_state_folder_is_no_traceback() -> None:
    done = run("env", "DTQ_STATE=/dev/null", sys.executable, "-m", "hack.stack", "up")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "/dev/null" in done.stderr

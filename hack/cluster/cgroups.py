"""Owns the control groups below which every pod of the cluster runs, in each hierarchy there is.

Must never touch a group outside the cluster's own.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hack.cluster.report import wait_until

NAME = "dtq-cluster"
EMPTY_TIMEOUT_SECONDS = 20.0
_ROOT = Path("/sys/fs/cgroup")


def make() -> None:
    """Make the group that kubelet is told to put all pods in."""
    for hierarchy in _hierarchies():
        (hierarchy / NAME).mkdir(exist_ok=True)


def kill_all() -> None:
    """Kill every process of every pod; back when none is left."""

    def emptied() -> bool:
        pids = {pid for group in _groups() for pid in (group / "cgroup.procs").read_text().split()}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    wait_until(
        emptied,
        "all pods' processes are gone",
        timeout_seconds=EMPTY_TIMEOUT_SECONDS,
        next_step=f"see who is left: cat {_ROOT}/*/{NAME}/**/cgroup.procs",
    )


def remove() -> None:
    """Remove the groups, the innermost first."""
    for group in _groups():
        group.rmdir()


def _groups() -> Iterator[Path]:
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / NAME, topdown=False):
            yield Path(folder)


def _hierarchies() -> list[Path]:
    """One on cgroup v2, one for each controller on v1 (where `unified` has no controllers of use)."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    # Two names of one hierarchy (cpu, cpuacct) can be links to one folder.
    return sorted({folder.resolve() for folder in _ROOT.iterdir() if (folder / "cgroup.procs").exists()})

"""Owns the control groups below which every pod of the cluster runs, in each hierarchy there is.

Must never touch a group outside the cluster's own.
"""

import contextlib
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hack.cluster.report import wait_until

EMPTY_TIMEOUT_SECONDS = 20.0
_ROOT = Path("/sys/fs/cgroup")


def name_of(state_folder: Path) -> str:
    """The group of the cluster that has this state folder."""
    return f"dtq-{hashlib.sha256(bytes(state_folder)).hexdigest()[:8]}"


def make(name: str) -> None:
    """Make the group that kubelet is told to put all pods in."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def kill_all(name: str) -> None:
    """Kill every process of every pod; back when none is left."""

    def emptied() -> bool:
        pids = {pid for group in _groups(name) for pid in (group / "cgroup.procs").read_text().split()}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        return not pids

    wait_until(
        emptied,
        "all pods' processes are gone",
        timeout_seconds=EMPTY_TIMEOUT_SECONDS,
        next_step=f"see who is left: cat {_ROOT}/*/{name}/**/cgroup.procs",
    )


def remove(name: str) -> None:
    """Remove the groups, the innermost first."""
    for group in _groups(name):
        group.rmdir()


def _groups(name: str) -> Iterator[Path]:
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            yield Path(folder)


def _hierarchies() -> list[Path]:
    """One on cgroup v2, one for each controller on v1 (where `unified` has no controllers of use)."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    # Two names of one hierarchy (cpu, cpuacct) can be links to one folder.
    return sorted({folder.resolve() for folder in _ROOT.iterdir() if (folder / "cgroup.procs").exists()})

"""The control groups below which every pod of the cluster runs, in each hierarchy of the machine.

Never touches a group outside the cluster's own.
"""

import contextlib
import errno
import hashlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from hack.lib.waiting import wait_until

EMPTY_TIMEOUT_SECONDS = 20.0
_ROOT = Path("/sys/fs/cgroup")


def name_of(state_folder: Path) -> str:
    """Return the name of the group of the cluster with this state folder."""
    return f"dtq-{hashlib.sha256(bytes(state_folder)).hexdigest()[:8]}"


def make(name: str) -> None:
    """Make the group in which kubelet puts all pods."""
    for hierarchy in _hierarchies():
        (hierarchy / name).mkdir(exist_ok=True)


def kill_all(name: str) -> None:
    """Kill every process of every pod; return when none is left."""

    def emptied() -> bool:
        pids = {pid for group in groups(name) for pid in processes_of(group)}
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    wait_until(
        emptied,
        "all pods' processes are gone",
        timeout_seconds=EMPTY_TIMEOUT_SECONDS,
        next_step=f"see who is left: cat {_ROOT}/*/{name}/**/cgroup.procs",
    )


def remove(name: str) -> None:
    """Remove the groups, the innermost first."""
    for group in groups(name):
        remove_one(group)


def remove_one(group: Path) -> None:
    """Remove a group, unless it has vanished already."""
    with contextlib.suppress(FileNotFoundError):
        group.rmdir()


def processes_of(group: Path) -> list[int]:
    """Return the pids in a group; none if the runtime has removed the group, as at the end of a pod."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError as error:
        # The group vanished before or after its file was opened.
        if error.errno not in {errno.ENOENT, errno.ENODEV}:
            raise
        return []


def groups(name: str) -> Iterator[Path]:
    """The cluster's group in each hierarchy and all groups below it, the innermost first."""
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            yield Path(folder)


def _hierarchies() -> list[Path]:
    """Return one hierarchy on cgroup v2, one for each controller on v1 (where `unified` has none)."""
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    # Two names of one hierarchy (cpu, cpuacct) can be links to one folder.
    return sorted({folder.resolve() for folder in _ROOT.iterdir() if (folder / "cgroup.procs").exists()})

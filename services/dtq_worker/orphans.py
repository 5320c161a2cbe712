"""Orphans: ends the processes that a child process left behind, whatever session they are in.

A process whose parent has ended goes to its nearest ancestor that adopts orphans: a living child, or else the worker.
So an orphan of the worker that descends from a child has outlived that child. Must not touch the processes that
handlers start in the worker itself: they have no mark.
"""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

living_children: Final[set[int]] = set()
"""The pids of the living child processes: a module variable, since the kernel gives orphans to the whole process."""
_LIMIT: Final = "Max msgqueue size"


def mark() -> None:
    """Mark this process and all its later descendants as those of a child process.

    The mark is a hard limit that is one byte lower than the worker's: every process inherits it, and only a privileged
    one can raise it again. Nothing else uses that limit, and one byte is not missed.
    """
    if sys.platform == "linux":
        soft, hard = resource.getrlimit(resource.RLIMIT_MSGQUEUE)
        lower = sys.maxsize if hard == resource.RLIM_INFINITY else max(hard - 1, 0)
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (lower if soft == hard else min(soft, lower), lower))


def kill() -> bool:
    """Kill the orphans that ended children left to this process, and reap them; return whether there were any."""
    own = _hard_limit("self")
    found = [pid for pid in _children() if pid not in living_children and _hard_limit(pid) < own]
    for pid in found:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
    return bool(found)


def _children() -> Iterator[int]:
    for children in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # the thread has ended
            yield from map(int, children.read_text(encoding="ascii").split())


def _hard_limit(pid: int | str) -> float:
    """Return the limit that `mark` lowers; infinite if it cannot be read."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines():
            if line.startswith(_LIMIT):
                hard = line.removeprefix(_LIMIT).split()[1]
                return float("inf") if hard == "unlimited" else float(hard)
    return float("inf")

"""Sets attributes of the own process that Python has no function for. Outside Linux nothing is set."""

import ctypes
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36


def die_with_parent() -> None:
    """Make the kernel kill this process when its parent dies."""
    _set(_PR_SET_PDEATHSIG, signal.SIGKILL)


def adopt_orphans() -> None:
    """Make this process the parent of each descendant whose own parent ends, as PID 1 of a container is."""
    _set(_PR_SET_CHILD_SUBREAPER, 1)


def forbid_inspection() -> None:
    """Forbid other processes of this user to read this one's memory, environment and files, or to trace it.

    A process with the capability CAP_SYS_PTRACE still may, and so does this process itself.
    """
    _set(_PR_SET_DUMPABLE, 0)


def _set(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)

"""Leftovers: detects what a handler leaves in its child process that could break the next task there.

Memory is not compared: modules, caches and variables may stay.
"""

import os
import resource
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

_LIMITS: Final = (
    resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE,
    resource.RLIMIT_NPROC, resource.RLIMIT_STACK,
)  # fmt: skip
_TIMERS: Final = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)
_SIGNALS: Final = tuple(number for number in signal.Signals if number not in (signal.SIGKILL, signal.SIGSTOP))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """The state of a process that can break or starve the next task."""

    threads: frozenset[threading.Thread]
    has_children: bool
    has_timers: bool
    limits: tuple[tuple[int, int], ...]
    signal_handlers: tuple[Any, ...]
    folder: str | None

    @classmethod
    def now(cls) -> Self:
        """Return the state of this process."""
        return cls(
            threads=frozenset(threading.enumerate()),
            has_children=_has_children(),
            has_timers=any(signal.getitimer(timer) != (0.0, 0.0) for timer in _TIMERS),
            limits=tuple(resource.getrlimit(limit) for limit in _LIMITS),
            signal_handlers=tuple(signal.getsignal(number) for number in _SIGNALS),
            folder=_folder(),
        )

    def left(self, after: "ProcessState") -> list[str]:
        """Return what a run left behind that was not there before, as text."""
        return [
            words
            for words, changed in (
                ("threads", bool(after.threads - self.threads)),
                ("processes", after.has_children and not self.has_children),
                ("timers", after.has_timers and not self.has_timers),
                ("resource limits", after.limits != self.limits),
                ("signal handlers", after.signal_handlers != self.signal_handlers),
                ("working directory", after.folder != self.folder),
            )
            if changed
        ]


def _has_children() -> bool:
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _folder() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return None

"""Owns the view of the system's processes: who is alive, who descends from whom.

It must never confuse a process with a later one that got the same number: an Identity carries the start time.
"""

import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
KILL = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Identity:
    """A process number and the clock tick at which that process started."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether this very process still runs; an ended child of ours is reaped on the way."""
        stat = _stat(self.pid)
        if stat is None or stat.started != self.started:
            return False
        if stat.state == "Z":
            _reap(self.pid)
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Signal the process if it is still the same one."""
        if self.alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    state: str
    parent: int
    session: int
    started: int


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name may hold blanks and brackets, so the fields are counted from its last bracket.
    fields = text.rpartition(")")[2].split()
    return _Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def identify(pid: int) -> Identity | None:
    """The identity of the process that has this number now, if any."""
    stat = _stat(pid)
    return Identity(pid, stat.started) if stat else None


def family(leader: Identity) -> list[Identity]:
    """The leader's descendants and the members of its session, the leader itself left out.

    Both are needed: a server's children may open sessions of their own, and orphans keep the leader's.
    """
    stats = [stat for entry in PROC.iterdir() if entry.name.isdigit() and (stat := _stat(int(entry.name)))]
    members = {leader.pid}
    found: dict[int, Identity] = {}
    grown = True
    while grown:
        grown = False
        for stat in stats:
            kin = stat.parent in members or stat.session == leader.pid
            if kin and stat.pid not in members and stat.started >= leader.started:
                members.add(stat.pid)
                found[stat.pid] = Identity(stat.pid, stat.started)
                grown = True
    return list(found.values())


def working_in(folder: Path) -> list[Identity]:
    """The processes whose working folder this is."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit() and _working_folder(entry) == str(folder.resolve()):
            stat = _stat(int(entry.name))
            if stat is not None:
                found.append(Identity(stat.pid, stat.started))
    return found


def marked(assignment: str) -> list[Identity]:
    """The processes that were given this NAME=value in their environment."""
    found = []
    for entry in PROC.iterdir():
        if entry.name.isdigit() and assignment.encode() in _environment(entry):
            stat = _stat(int(entry.name))
            if stat is not None:
                found.append(Identity(stat.pid, stat.started))
    return found


def _environment(entry: Path) -> list[bytes]:
    try:
        return (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _working_folder(entry: Path) -> str:
    try:
        return str((entry / "cwd").readlink())
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    """Whether a process has ended and only waits to be noticed by its parent."""
    stat = _stat(pid)
    return stat is not None and stat.state == "Z"


def command_line(pid: int) -> str:
    """The command of a process, for people; empty when it is gone."""
    try:
        line = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""
    return " ".join(line.replace("\0", " ").split())


def any_alive(processes: Iterable[Identity]) -> bool:
    """Whether one of them still runs."""
    return any([process.alive for process in processes])  # noqa: C419 - each one is looked at, and so reaped

"""The system's processes, as /proc shows them: which are alive, and which descend from which.

An `Identity` carries the start time, in ticks of the running boot, to tell a process from a later one of the same
number. psutil identifies a process by the wall clock, which can be set, and a shell cannot record that.
"""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
KILL = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Identity:
    """Identifies one process permanently: its pid, the clock tick of its start, the machine's boot."""

    pid: int
    started: int
    boot: str

    @classmethod
    def parse(cls, note: str) -> Self:
        """Return the identity from its text, as `str` gives it.

        Raises:
            ValueError: the text is not an identity.
        """
        pid, started, boot = note.split()
        return cls(int(pid), int(started), boot)

    def __str__(self) -> str:
        return f"{self.pid} {self.started} {self.boot}"

    @property
    def alive(self) -> bool:
        """Return whether this process still runs; reap it if it is an ended child."""
        stat = _stat(self.pid)
        if stat is None or _identity(stat) != self:
            return False
        if stat.ended:
            _reap(self.pid)
            return False
        return True

    def send(self, number: signal.Signals) -> None:
        """Signal the process if it is still the same."""
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
    threads: int
    started: int

    @property
    def ended(self) -> bool:
        # A killed process shows as a zombie while threads of it still hold its ports and files.
        return self.state in {"Z", "X"} and self.threads <= 1


def _stat(pid: int) -> _Stat | None:
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    # The command name may hold blanks and brackets, so the fields are counted from its last bracket.
    fields = text.rpartition(")")[2].split()
    return _Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[17]), int(fields[19]))


def _identity(stat: _Stat) -> Identity:
    return Identity(stat.pid, stat.started, BOOT_ID.read_text().strip())


def _reap(pid: int) -> None:
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def identify(pid: int) -> Identity | None:
    """Return the identity of the running process with this pid, or None."""
    stat = _stat(pid)
    return None if stat is None or stat.ended else _identity(stat)


def everyone() -> Iterator[Identity]:
    """Every process of the machine that has not ended."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and (identity := identify(int(entry.name))):
            yield identity


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
                found[stat.pid] = _identity(stat)
                grown = True
    return list(found.values())


def working_in(folder: Path) -> list[Identity]:
    """The processes whose working folder this is."""
    return [process for process in everyone() if _working_folder(process.pid) == str(folder.resolve())]


def marked(assignment: str) -> list[Identity]:
    """Return the processes that started with this NAME=value in their environment."""
    return [process for process in everyone() if assignment in _words(process.pid, "environ")]


def arguments(pid: int) -> list[str]:
    """Return the command line of a process; empty if it has ended."""
    return _words(pid, "cmdline")


def _words(pid: int, file: str) -> list[str]:
    try:
        content = (PROC / str(pid) / file).read_bytes()
    except OSError:
        return []
    return content.decode(errors="replace").rstrip("\0").split("\0")


def _working_folder(pid: int) -> str:
    try:
        return str((PROC / str(pid) / "cwd").readlink())
    except OSError:
        return ""


def is_zombie(pid: int) -> bool:
    """Return whether a process has ended but was not reaped by its parent."""
    stat = _stat(pid)
    return stat is not None and stat.state == "Z"


def any_alive(processes: Iterable[Identity]) -> bool:
    """Return whether at least one of them still runs."""
    return any([process.alive for process in processes])  # noqa: C419 - each one is looked at, and so reaped

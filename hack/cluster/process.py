"""Owns the long-lived processes of one cluster: started detached, known by pid files, stopped for sure.

Must never signal a process it did not start: a pid file names the process by pid, start time and
boot, so a pid that the system gave to someone else is not ours.
"""

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hack.cluster.report import ClusterError, wait_until

KILL_SECONDS = 10.0
NOTE_SECONDS = 10.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Places after the command's name in /proc/PID/stat.
_STAT_STATE, _STAT_THREADS, _STAT_START = 0, 17, 19
# The process notes itself before it becomes the program: whoever started it may be killed at any
# moment, and what it started is known all the same.
_NOTE_THEN_RUN = f'cat "/proc/$$/stat" {_BOOT_ID} >"$0.new" && mv "$0.new" "$0" && exec "$@"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """One process for as long as the machine runs: a pid alone can be given out again."""

    pid: int
    start_ticks: int
    boot_id: str


def identify(pid: int) -> Identity | None:
    """The identity of a live process; None when there is none, or only its zombie."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # when it is our own child, its end is ours to collect
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = _after_name(stat)
    # A killed process shows as a zombie while threads of it still hold its ports and files.
    if fields[_STAT_STATE] in {"Z", "X"} and int(fields[_STAT_THREADS]) <= 1:
        return None
    return noted(stat + _BOOT_ID.read_text())


def noted(note: str) -> Identity:
    """The identity that a pid file says: the process's line of /proc, and the boot's."""
    stat, boot_id = note.strip().rsplit("\n", 1)
    start_ticks = int(_after_name(stat)[_STAT_START])
    return Identity(pid=int(stat.split(maxsplit=1)[0]), start_ticks=start_ticks, boot_id=boot_id)


def _after_name(stat: str) -> list[str]:
    return stat[stat.rindex(")") + 2 :].split()


class Supervisor:
    """The processes of one state folder: pid files in `run/`, output in `logs/`."""

    def __init__(self, state: Path) -> None:
        self._run = state / "run"
        self._logs = state / "logs"

    def log(self, name: str) -> Path:
        """Where the process called `name` writes."""
        return self._logs / f"{name}.log"

    def start(self, name: str, argv: list[str], environ: Mapping[str, str] | None = None) -> None:
        """Start `argv` in a session of its own, so that it outlives the command that started it."""
        if self.running(name):
            raise ClusterError(f"{name} runs already", next_step="stop the cluster first")
        for folder in (self._run, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        pid_file = self._pid_file(name)
        pid_file.unlink(missing_ok=True)
        opened = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _NOTE_THEN_RUN, str(pid_file), *argv],
            {**os.environ, **(environ or {})},
            setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(self.log(name)), opened, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
        )
        wait_until(pid_file.exists, f"{name} is started", timeout_seconds=NOTE_SECONDS, log=self.log(name))

    def names(self) -> list[str]:
        """Every process that was started here and not stopped."""
        return sorted(file.stem for file in self._run.glob("*.pid"))

    def status(self) -> list[str]:
        """One line for each process that was started here."""
        pids = {name: self.pid(name) for name in self.names()}
        return [f"{name}: pid {pid}" if pid else f"{name}: ended, {self.log(name)}" for name, pid in pids.items()]

    def pid(self, name: str) -> int | None:
        """The pid of a process of ours that lives; None when it ended or never was."""
        try:
            identity = noted(self._pid_file(name).read_text())
        except FileNotFoundError:
            return None
        return identity.pid if identify(identity.pid) == identity else None

    def running(self, name: str) -> bool:
        """Whether the process lives."""
        return self.pid(name) is not None

    def check(self, name: str) -> None:
        """Raise when a process that should run has ended."""
        if not self.running(name):
            raise ClusterError(f"{name} ended", log=self.log(name), next_step="read the log's last lines")

    def check_all(self) -> None:
        """Raise when any process that was started here, and not stopped, has ended."""
        for name in self.names():
            self.check(name)

    def ask_to_stop(self, name: str) -> None:
        """Send the polite signal and do not wait: several processes can end side by side."""
        self._signal(name, signal.SIGTERM)

    def stop(self, name: str, *, term_seconds: float = 20.0) -> None:
        """Stop the process and its session: politely for `term_seconds`, then by force; then it is gone."""
        self.ask_to_stop(name)
        try:
            wait_until(lambda: not self.running(name), f"stopping {name}", timeout_seconds=term_seconds)
        except ClusterError:
            self.kill(name)
        self._pid_file(name).unlink(missing_ok=True)

    def kill(self, name: str) -> None:
        """End the process as a crash would."""
        self._signal(name, signal.SIGKILL)
        wait_until(
            lambda: not self.running(name),
            f"killing {name}",
            timeout_seconds=KILL_SECONDS,
            log=self.log(name),
            next_step=f"look at what holds it: cat /proc/{self.pid(name)}/stack",
        )
        self._pid_file(name).unlink(missing_ok=True)

    def _signal(self, name: str, number: signal.Signals) -> None:
        pid = self.pid(name)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _pid_file(self, name: str) -> Path:
        return self._run / f"{name}.pid"

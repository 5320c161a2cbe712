"""One background process: start, identity on disk, signals, end.

Signals only the process that it started: the pid file carries the start time and the boot.
"""

import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hack.lib import processes, report
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for

KILL_SECONDS = 10.0
NOTE_SECONDS = 10.0
MARK = "STACK_PID_FILE"
# The process records its identity before it becomes the program, so that it is known even if its parent is
# killed at any moment. The name in brackets is the shell's, so the fields can be cut at blanks.
_NOTE_THEN_RUN = f"""
echo $(cut -d ' ' -f 1,22 "/proc/$$/stat") $(cat {processes.BOOT_ID}) >"$0.new" && mv "$0.new" "$0" && exec "$@"
"""


def read_pid_file(path: Path) -> processes.Identity | None:
    """Return the running process that a pid file names; None if it has ended or another process has its number."""
    try:
        identity = processes.Identity.parse(path.read_text())
    except (OSError, ValueError):
        return None
    return identity if identity.alive else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A process that outlives the command that started it.

    Attributes:
        owns_children: whether its children end with it. The shims of containerd must outlive it.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    pid_file: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0
    owns_children: bool = True

    @property
    def identity(self) -> processes.Identity | None:
        """The running process, if there is one."""
        return read_pid_file(self.pid_file)

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.identity is not None

    def start(self) -> None:
        """Start the process in a session of its own, unless it runs already."""
        if self.running:
            return
        self._end_orphans()
        if shutil.which(self.argv[0], path=self.environ.get("PATH", os.defpath)) is None:
            raise HackError(f"{self.name} could not be started: there is no program {self.argv[0]}.")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.unlink(missing_ok=True)
        with self.log.open("a") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} starting {self.name}\n")
            log.flush()
            self._spawn(log.fileno())
        if not wait_for(self.pid_file.exists, timeout_seconds=NOTE_SECONDS):
            raise HackError(f"{self.name} was not started in {NOTE_SECONDS:g} s.", log=self.log)

    def _spawn(self, log: int) -> None:
        # posix_spawn rather than subprocess: no object in this process owns the child.
        os.posix_spawn(
            "/bin/sh",
            ("sh", "-c", _NOTE_THEN_RUN, str(self.pid_file), *self.argv),
            {**self.environ, **({MARK: str(self.pid_file)} if self.owns_children else {})},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGINT],
            setsigmask=[],
        )

    def ask_to_stop(self) -> None:
        """Send the stop signal without waiting, so that several processes can end side by side."""
        identity = self.identity
        if identity is not None:
            identity.send(signal.SIGCONT)
            identity.send(self.stop_signal)

    def stop(self) -> None:
        """Send the stop signal, wait, and kill what is left of the process and its family."""
        identity = self.identity
        if identity is not None:
            family = self._family(identity)
            self.ask_to_stop()
            ended = wait_for(lambda: not identity.alive, timeout_seconds=self.stop_seconds)
            if not ended:
                report.say(f"{self.name} did not stop in {self.stop_seconds:g} s: killed.")
                family = self._family(identity)
            self._finish([identity, *family])
        self._end_orphans()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the process and its family at once, as a crash would."""
        identity = self.identity
        if identity is not None:
            self._finish([identity, *self._family(identity)])
        self._end_orphans()
        self.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze the whole family: connections stay open, requests get no answer."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a frozen family."""
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        identity = self.identity
        if identity is not None:
            for process in (identity, *self._family(identity)):
                process.send(number)

    def _family(self, leader: processes.Identity) -> list[processes.Identity]:
        return processes.family(leader) if self.owns_children else []

    def _end_orphans(self) -> None:
        # Children may outlive a killed leader; they have inherited its mark.
        if self.owns_children:
            self._finish(processes.marked(f"{MARK}={self.pid_file}"))

    def _finish(self, everyone: list[processes.Identity]) -> None:
        for process in everyone:
            process.send(signal.SIGKILL)
        if not wait_for(lambda: not processes.any_alive(everyone), timeout_seconds=KILL_SECONDS):
            left = ", ".join(str(process.pid) for process in everyone if process.alive)
            raise HackError(
                f"{self.name} is still there after SIGKILL: pid {left}.",
                log=self.log,
                next_step="see what holds it (`ps -o pid,stat,wchan,cmd -p PID`) and try again.",
            )

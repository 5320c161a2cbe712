"""Owns one background process: start, identity on disk, signals, end.

It must never signal a process that it did not start: the pid file carries the start time.
"""

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hack.stack import proc
from hack.stack.errors import StackError
from hack.stack.waiting import wait_for

KILL_SECONDS = 10.0
MARK = "STACK_PID_FILE"


def read_pid_file(path: Path) -> proc.Identity | None:
    """The live process that a pid file names; None when it ended or the number belongs to another."""
    try:
        pid, started = path.read_text().split()
        identity = proc.Identity(int(pid), int(started))
    except (OSError, ValueError):
        return None
    return identity if identity.alive else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A process of ours that outlives the command which started it."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(repr=False)
    pid_file: Path
    log: Path
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 20.0

    @property
    def identity(self) -> proc.Identity | None:
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
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            log.write(f"--- {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} starting {self.name}\n")
            log.flush()
            identity = self._spawn(log.fileno())
        partial = self.pid_file.with_suffix(".new")
        partial.write_text(f"{identity.pid} {identity.started}\n")
        partial.replace(self.pid_file)

    def _spawn(self, log: int) -> proc.Identity:
        # posix_spawn rather than subprocess: no object in this process owns the child.
        try:
            pid = os.posix_spawnp(
                self.argv[0],
                self.argv,
                {**self.environ, MARK: str(self.pid_file)},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
                setsigdef=[signal.SIGPIPE, signal.SIGINT],
                setsigmask=[],
            )
        except OSError as error:
            raise StackError(f"{self.name} could not be started: {error}.", log=self.log) from error
        identity = proc.identify(pid)
        assert identity is not None, "a child stays visible until it is reaped"
        return identity

    def stop(self) -> None:
        """Ask the process to end, wait, and end by force what is left of its family."""
        identity = self.identity
        if identity is not None:
            family = proc.family(identity)
            identity.send(signal.SIGCONT)
            identity.send(self.stop_signal)
            ended = wait_for(lambda: not identity.alive, timeout_seconds=self.stop_seconds)
            if not ended:
                print(f"{self.name} did not stop in {self.stop_seconds:g} s: killed.", file=sys.stderr)
                family = proc.family(identity)
            self._finish([identity, *family])
        self._end_orphans()
        self.pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the process and its family at once, as a crash would."""
        identity = self.identity
        if identity is not None:
            self._finish([identity, *proc.family(identity)])
        self._end_orphans()
        self.pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze the whole family: connections stay open, nobody answers."""
        self._send_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a frozen family go on."""
        self._send_all(signal.SIGCONT)

    def _send_all(self, number: signal.Signals) -> None:
        identity = self.identity
        if identity is not None:
            for process in (identity, *proc.family(identity)):
                process.send(number)

    def _end_orphans(self) -> None:
        # Children may outlive a leader that was killed; they are known by the mark that they inherited.
        self._finish(proc.marked(f"{MARK}={self.pid_file}"))

    def _finish(self, everyone: list[proc.Identity]) -> None:
        for process in everyone:
            process.send(signal.SIGKILL)
        if not wait_for(lambda: not proc.any_alive(everyone), timeout_seconds=KILL_SECONDS):
            left = ", ".join(str(process.pid) for process in everyone if process.alive)
            raise StackError(
                f"{self.name} is still there after SIGKILL: pid {left}.",
                log=self.log,
                fix="see what holds it (`ps -o pid,stat,wchan,cmd -p PID`) and try again.",
            )

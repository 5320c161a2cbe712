"""The long-lived processes of one cluster, by name: pid files in `run/`, output in `logs/`.

Ends only the processes that it started, not their children: containerd's shims hold the pods and outlive it.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from hack.lib.background import Background
from hack.lib.errors import HackError

STOP_SECONDS = 20.0


class Supervisor:
    """The processes of one state folder."""

    def __init__(self, state: Path) -> None:
        self._run = state / "run"
        self._logs = state / "logs"

    def log(self, name: str) -> Path:
        """Return the log file of the process called `name`."""
        return self._logs / f"{name}.log"

    def start(self, name: str, argv: list[str], environ: Mapping[str, str] | None = None) -> None:
        """Start `argv` in a session of its own, so that it outlives the command that started it."""
        if self.running(name):
            raise HackError(f"{name} runs already", next_step="stop the cluster first")
        self._process(name, argv=tuple(argv), environ={**os.environ, **(environ or {})}).start()

    def names(self) -> list[str]:
        """Return the names of the processes that were started and not stopped."""
        return sorted(file.stem for file in self._run.glob("*.pid"))

    def status(self) -> list[str]:
        """One line for each process that was started here."""
        pids = {name: self.pid(name) for name in self.names()}
        return [f"{name}: pid {pid}" if pid else f"{name}: ended, {self.log(name)}" for name, pid in pids.items()]

    def pid(self, name: str) -> int | None:
        """Return the pid of a running process; None if it has ended or was never started."""
        identity = self._process(name).identity
        return identity.pid if identity else None

    def running(self, name: str) -> bool:
        """Whether the process lives."""
        return self._process(name).running

    def check(self, name: str) -> None:
        """Raise if a process that should run has ended."""
        if not self.running(name):
            raise HackError(f"{name} ended", log=self.log(name), next_step="read the log's last lines")

    def check_all(self) -> None:
        """Raise if any process that was started and not stopped has ended."""
        for name in self.names():
            self.check(name)

    def ask_to_stop(self, name: str) -> None:
        """Send the stop signal without waiting, so that several processes can end side by side."""
        self._process(name).ask_to_stop()

    def stop(self, name: str, *, term_seconds: float = STOP_SECONDS) -> None:
        """Stop the process: by SIGTERM, and after `term_seconds` by SIGKILL; return when it has ended."""
        self._process(name, stop_seconds=term_seconds).stop()

    def kill(self, name: str) -> None:
        """End the process as a crash would."""
        self._process(name).kill()

    def _process(
        self,
        name: str,
        *,
        argv: tuple[str, ...] = (),
        environ: Mapping[str, str] | None = None,
        stop_seconds: float = STOP_SECONDS,
    ) -> Background:
        return Background(
            name=name,
            argv=argv,
            environ=environ or {},
            pid_file=self._run / f"{name}.pid",
            log=self.log(name),
            stop_seconds=stop_seconds,
            owns_children=False,
        )

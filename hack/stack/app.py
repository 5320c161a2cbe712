"""dtq's own processes in the local stack: one-off commands, the API and the worker.

They are started through the command `dtq`, as a person would; dtq is not imported.
"""

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import NoReturn

from hack.lib import ports, report
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack.handover import become
from hack.stack.provider import Part
from hack.stack.settings import PORTS, ROOT, Settings

NAMES = ("api", "worker")
READY_SECONDS = 30.0
COMMAND_SECONDS = 120.0
# The exit code of `dtq apply` for a manifest that conflicts with what is declared.
REFUSED = 4
# A worker finishes its tasks before it ends.
STOP_SECONDS = 40.0


class App:
    """The API and the worker of one stack."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; nothing is started."""
        self.settings = settings
        ours = {"DTQ_STATE", *(variable for variable, _ in PORTS.values())}
        theirs = {name: value for name, value in os.environ.items() if name not in ours}
        self.environ = {**theirs, **settings.environ}

    def process(self, name: str) -> Background:
        """The background process of `dtq api` or `dtq worker`."""
        return Background(
            name=f"dtq {name}",
            argv=(str(_program()), name),
            environ=self.environ,
            pid_file=self.settings.state / "run" / f"{name}.pid",
            log=self.settings.log_folder / f"{name}.log",
            stop_seconds=STOP_SECONDS,
        )

    def command(self, *arguments: str, may_be_refused: bool = False) -> Path:
        """Run a command of dtq to its end, its output kept in a log; return the log."""
        log = self.settings.log_folder / f"{arguments[0]}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w") as stream:
            done = subprocess.run(
                [_program(), *arguments],
                env=self.environ,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=COMMAND_SECONDS,
                check=False,
            )
        if done.returncode and not (may_be_refused and done.returncode == REFUSED):
            shown = " ".join(("dtq", *arguments))
            raise HackError(f"`{shown}` failed with exit code {done.returncode}.", log=log)
        return log

    def become(self, *arguments: str) -> NoReturn:
        """Turn this process into a command of dtq, in the foreground."""
        become(_program(), *arguments, environ=self.environ)

    def start(self) -> None:
        """Start what does not run; return when both are ready."""
        for name in NAMES:
            process = self.process(name)
            if not process.running:
                variable = PORTS[name][0]
                ports.require_free(self.settings.ports[name], name=f"The {name}", variable=variable)
                process.start()
        for name in NAMES:
            self._wait_ready(name)

    def stop(self, *names: str) -> None:
        """Stop the named processes, or all; the worker drains."""
        running = [process for name in names or NAMES if (process := self.process(name)).running]
        for process in running:
            with report.step(f"Stopping {process.name}"):
                process.stop()

    def parts(self) -> list[Part]:
        """Return the processes for `make ps`."""
        found = []
        for name in NAMES:
            identity = self.process(name).identity
            # The process that answers on this port may not be ours.
            healthy = identity is not None and self._unready(name) is None
            found.append(Part(f"dtq {name}", self.settings.ports[name], identity, healthy))
        return found

    def logs(self) -> list[Path]:
        """The processes' log files."""
        return [self.process(name).log for name in NAMES]

    def url(self, name: str) -> str:
        """Return the URL of a process."""
        return f"http://{ports.HOST}:{self.settings.ports[name]}"

    def _wait_ready(self, name: str) -> None:
        process = self.process(name)
        if not wait_for(lambda: self._unready(name) is None or not process.running, timeout_seconds=READY_SECONDS):
            raise HackError(
                f"dtq {name} runs, but was not ready in {READY_SECONDS:g} s; "
                f"{self.url(name)}/readyz says: {self._unready(name)}.",
                log=process.log,
            )
        if not process.running:
            raise HackError(f"dtq {name} ended while it started.", log=process.log)

    def _unready(self, name: str) -> str | None:
        """Return why a process is not ready, or None."""
        try:
            with urllib.request.urlopen(self.url(name) + "/readyz", timeout=2):  # noqa: S310 - http, ours
                return None
        except urllib.error.HTTPError as error:
            with error:
                return f"{error.code} {error.read(300).decode(errors='replace')}"
        except OSError as error:
            return str(error)


def _program() -> Path:
    return Path(sys.executable).parent / "dtq"

"""Processes of one contestant: started together in sessions of their own, ended together."""

import os
import signal
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.usage import family_cpu
from hack.lib import processes

ROOT: Final = Path(__file__).resolve().parents[1]
READY_SECONDS: Final = 30.0
"""Longest wait for a server process to be ready, in seconds."""
STOP_SECONDS: Final = 12.0
"""How long a process may drain after SIGTERM, in seconds; then it is killed."""


class ProgramError(Exception):
    """A program of a contestant failed; the text ends with what it wrote last."""


class Group:
    """Running processes."""

    def __init__(self, started: Sequence["subprocess.Popen[bytes]"], log: Path) -> None:
        self._started = started
        self._leaders = [processes.identify(process.pid) for process in started]
        self._log = log

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of all of them so far."""
        return family_cpu(self._leaders)

    def check(self) -> None:
        """Raise if one has ended.

        Raises:
            ProgramError: with the end of its log.
        """
        for process in self._started:
            if process.poll() is not None:
                raise ProgramError(f"a process ended with code {process.returncode}: {_tail(self._log)}")

    def wait_ready(self, url: str) -> None:
        """Wait until the server process answers."""
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until:
            self.check()
            try:
                with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                    return
            except OSError:
                time.sleep(0.05)
        raise ProgramError(f"not ready after {READY_SECONDS:g} s: {_tail(self._log)}")


@contextmanager
def group(commands: Sequence[Sequence[str]], environ: Mapping[str, str]) -> Iterator[Group]:
    """Run the commands from the repository's root until the end of the block."""
    with tempfile.NamedTemporaryFile(prefix="dtq-bench-", suffix=".log") as log:
        started = [
            subprocess.Popen(command, env=environ_of(environ), cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
            for command in commands
        ]
        try:
            yield Group(started, Path(log.name))
        finally:
            _end(started)


def run(command: Sequence[str], environ: Mapping[str, str], *, timeout_seconds: float) -> str:
    """Run a program to its end; return what it printed.

    Raises:
        ProgramError: it failed, or took too long.
    """
    process = subprocess.Popen(
        command, env=environ_of(environ), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=timeout_seconds)
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"`{' '.join(command)}` did not end in {timeout_seconds:g} s") from error
    finally:
        _kill(process)
    if process.returncode:
        said = errors.strip().splitlines()[-1:] or ["it printed nothing"]
        raise ProgramError(f"`{' '.join(command)}` ended with code {process.returncode}: {said[0][:300]}")
    return output


def environ_of(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a program: the chosen variables, and of ours only what finds programs."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), **environ}


def _end(started: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill(process)
            process.wait()


def _kill(process: "subprocess.Popen[bytes] | subprocess.Popen[str]") -> None:
    """End what is left of a process and its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-400:]

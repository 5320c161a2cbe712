"""Owns real processes on real services: `dtq api` and `dtq worker` as a person starts them.

It must never leave one behind: the stack of a `System` ends them all.
"""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dtq.runtime.loops import wait

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 90.0
ADDRESS_VARIABLES = {
    "api": "HTTP_PORT",
    "maintenance": "DTQ_MAINTENANCE_HTTP_PORT",
    "worker": "WORKER_HTTP_PORT",
    "operator": "DTQ_OPERATOR_HTTP_PORT",
}


@dataclass(kw_only=True)
class Process:
    """One process of dtq and where its probes answer."""

    popen: "subprocess.Popen[bytes]"
    address: str
    log: Path

    async def ready(self) -> None:
        """Wait until it is ready."""
        await eventually(self._is_ready, f"{self.log} ends:\n{self.log.read_text()[-2000:]}", READY_SECONDS)

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        """Stop it where it is: its connections stay open, and it answers nobody."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """End it as Kubernetes does; return its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=60)

    async def _is_ready(self) -> bool:
        assert self.popen.poll() is None, self.log.read_text()[-2000:]
        return (await call(f"http://{self.address}/readyz"))[0] == 200


@dataclass(kw_only=True)
class System:
    """A database, a broker, and the processes that a test starts on them."""

    folder: Path
    environ: dict[str, str]
    handler_log: Path
    stack: ExitStack
    processes: list[Process] = field(default_factory=list)

    def api(self, **environ: str) -> Process:
        """Start an API."""
        return self.start("api", f"127.0.0.1:{free_port()}", environ)

    def worker(self, **environ: str) -> Process:
        """Start a worker with the sample handlers."""
        return self.start("worker", f"127.0.0.1:{free_port()}", environ)

    def maintenance(self, **environ: str) -> Process:
        """Start the maintenance roles alone."""
        return self.start("maintenance", f"127.0.0.1:{free_port()}", environ)

    def operator(self, **environ: str) -> Process:
        """Start an operator."""
        return self.start("operator", f"127.0.0.1:{free_port()}", environ)

    def start(self, command: str, address: str, environ: Mapping[str, str]) -> Process:
        """Start a process whose HTTP server listens at `address`."""
        log = self.folder / f"{command}-{len(self.processes)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "dtq_cli", command],
                env={**self.environ, **environ, ADDRESS_VARIABLES[command]: address}, stdout=out, stderr=out,
            )  # fmt: skip
        process = Process(popen=popen, address=address, log=log)
        self.stack.callback(process.kill)
        self.processes.append(process)
        return process

    def run(self, *args: str, stdin: str = "") -> str:
        """Run a sub-command to its end; return what it printed."""
        return self.python("-m", "dtq_cli", *args, stdin=stdin)

    def python(self, *args: str, stdin: str = "") -> str:
        """Run the interpreter to its end, with the environment of the processes; return what it printed."""
        done = subprocess.run(
            [sys.executable, *args],
            env=self.environ, input=stdin, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """Return what the handlers wrote down, in order."""
        if not self.handler_log.exists():
            return []
        return [json.loads(line) for line in self.handler_log.read_text().splitlines()]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def call(url: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    """Send one request; return status, headers and the decoded body; status 0 when nobody answers."""

    def send() -> tuple[int, dict[str, str], Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), json.loads(error.read() or b"null")
        except OSError:
            return 0, {}, None

    return await asyncio.to_thread(send)


async def text_of(url: str) -> str:
    """Return a page's text."""

    def get() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(get)


async def eventually(holds: Callable[[], Any], what: str, seconds: float) -> None:
    """Wait until `holds` says so, for a bounded time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not await holds():
        assert loop.time() < until, f"not within {seconds:g} s: {what}"
        await wait(asyncio.Event(), 0.1)

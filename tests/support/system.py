"""Real processes on real services: `dtq api`, `dtq worker` and the others as a person starts them.

The end of a `System` ends all of its processes.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.addresses import BrokerVhost, free_address
from tests.support.waiting import eventually

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 90.0
"""A process is ready after its start, on a busy machine, in seconds."""
COMMAND_SECONDS = 120.0
"""A command that runs to its end, in seconds."""
TAIL_CHARS = 2_000
ADDRESS_VARIABLES = {
    "api": "HTTP_PORT",
    "maintenance": "DTQ_MAINTENANCE_HTTP_PORT",
    "worker": "WORKER_HTTP_PORT",
    "operator": "DTQ_OPERATOR_HTTP_PORT",
}


@dataclass(kw_only=True)
class Process:
    """A process of dtq and the address of its probes."""

    popen: "subprocess.Popen[bytes]"
    address: str
    log: Path

    async def ready(self, path: str = "/readyz", *, seconds: float | None = None) -> None:
        """Wait until a probe answers 200."""

        async def answers() -> bool:
            assert self.popen.poll() is None, self.tail()
            return (await call(f"http://{self.address}{path}"))[0] == 200

        await eventually(answers, lambda: f"{self.log} ends:\n{self.tail()}", seconds or START_SECONDS)

    def tail(self) -> str:
        """Return the end of the log."""
        return self.log.read_text(errors="replace")[-TAIL_CHARS:]

    def kill(self) -> None:
        """End the process at once, as a power cut would."""
        self.popen.kill()
        self.popen.wait()

    def freeze(self) -> None:
        """Stop the process where it is: its connections stay open, and it answers no request."""
        self.popen.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue a frozen process."""
        self.popen.send_signal(signal.SIGCONT)

    def terminate(self) -> int:
        """End the process as Kubernetes does; return its exit code."""
        self.popen.send_signal(signal.SIGTERM)
        return self.popen.wait(timeout=60)


@dataclass(kw_only=True)
class System:
    """A database, a broker, and the processes that a test starts on them."""

    folder: Path
    environ: dict[str, str]
    stack: ExitStack
    processes: list[Process] = field(default_factory=list)

    @property
    def handler_log(self) -> Path:
        """Where the sample handlers write down each run."""
        return Path(self.environ["HANDLER_LOG"])

    def api(self, **environ: str) -> Process:
        """Start an API."""
        return self.start("api", **environ)

    def worker(self, **environ: str) -> Process:
        """Start a worker with the sample handlers."""
        return self.start("worker", **environ)

    def maintenance(self, **environ: str) -> Process:
        """Start the maintenance roles alone."""
        return self.start("maintenance", **environ)

    def operator(self, **environ: str) -> Process:
        """Start an operator."""
        return self.start("operator", **environ)

    def start(self, kind: str, *, program: Sequence[str] = (), address: str | None = None, **environ: str) -> Process:
        """Start a process.

        Args:
            kind: the sub-command.
            program: what to start instead of `dtq KIND`.
            address: where the HTTP server of the process listens; a free address if not given.
            environ: in addition to the system's environment.
        """
        address = address or free_address()
        log = self.folder / f"{kind}-{len(self.processes)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                program or dtq_command(kind),
                env={**self.environ, **environ, ADDRESS_VARIABLES[kind]: address}, stdout=out, stderr=out,
            )  # fmt: skip
        process = Process(popen=popen, address=address, log=log)
        self.stack.callback(process.kill)
        self.processes.append(process)
        return process

    def run(self, *args: str, stdin: str = "") -> str:
        """Run a sub-command to its end; return what it printed."""
        return self._printed(dtq_command(*args), stdin)

    def python(self, *args: str) -> str:
        """Run the interpreter to its end, with the environment of the processes; return what it printed."""
        return self._printed([sys.executable, *args], "")

    def _printed(self, command: Sequence[str], stdin: str) -> str:
        done = completed(command, self.environ, stdin=stdin)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """Return what the handlers wrote down, in order."""
        if not self.handler_log.exists():
            return []
        return [json.loads(line) for line in self.handler_log.read_text().splitlines()]


@contextmanager
def opened(folder: Path, dsn: str, vhost: BrokerVhost, **environ: str) -> Iterator[System]:
    """Yield a system on a database and a virtual host; its processes end with the block.

    Args:
        folder: for logs.
        environ: of every process, in addition to the addresses of the services and the sample handlers.
    """
    with ExitStack() as stack:
        yield System(folder=folder, environ=_environ(folder, dsn, vhost) | environ, stack=stack)


def _environ(folder: Path, dsn: str, vhost: BrokerVhost) -> dict[str, str]:
    return {
        **os.environ,
        **vhost.environ(dsn),
        "QUEUES": "high,default",
        "WORKER_HANDLERS": "tests.support.handlers",
        "HANDLER_LOG": str(folder / "runs.jsonl"),
        "PYTHONPATH": str(REPOSITORY),
        "WORKER_DRAIN": "5s",
    }


def dtq_command(*args: str) -> list[str]:
    """Return the command line of a sub-command of this environment's dtq."""
    return [sys.executable, "-m", "dtq_cli", *args]


def completed(
    command: Sequence[str],
    environ: Mapping[str, str],
    *,
    stdin: str = "",
    folder: Path | None = None,
    seconds: float = COMMAND_SECONDS,
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end, in this environment alone."""
    return subprocess.run(
        command, env=environ, input=stdin, cwd=folder, capture_output=True, text=True, check=False, timeout=seconds
    )


async def call(url: str, body: Any = None) -> tuple[int, dict[str, str], Any]:
    """Send one request; return status, headers and the decoded body; status 0 without an answer."""

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

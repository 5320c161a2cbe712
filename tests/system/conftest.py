"""Real processes on real services: `dtq api` and `dtq worker` as a person starts them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dtq.runtime.loops import wait

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 30.0


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
        return self._start("api", "HTTP_PORT", environ)

    def worker(self, **environ: str) -> Process:
        """Start a worker with the sample handlers."""
        return self._start("worker", "WORKER_HTTP_PORT", environ)

    def run(self, *args: str, stdin: str = "") -> str:
        """Run a sub-command to its end; return what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "dtq_cli", *args],
            env=self.environ, input=stdin, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def runs(self) -> list[dict[str, Any]]:
        """Return what the handlers wrote down, in order."""
        if not self.handler_log.exists():
            return []
        return [json.loads(line) for line in self.handler_log.read_text().splitlines()]

    def _start(self, command: str, variable: str, environ: dict[str, str]) -> Process:
        address = f"127.0.0.1:{free_port()}"
        log = self.folder / f"{command}-{len(self.processes)}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, "-m", "dtq_cli", command],
                env=self.environ | environ | {variable: address}, stdout=out, stderr=out,
            )  # fmt: skip
        process = Process(popen=popen, address=address, log=log)
        self.stack.callback(process.kill)
        self.processes.append(process)
        return process


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


async def eventually(holds: Callable[[], Any], what: str, seconds: float) -> None:
    """Wait until `holds` says so, for a bounded time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not await holds():
        assert loop.time() < until, f"not within {seconds:g} s: {what}"
        await wait(asyncio.Event(), 0.1)


@pytest.fixture
def handler_log(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl"


@pytest.fixture
def system(tmp_path: Path, handler_log: Path, dsn: str, broker_vhost: Any) -> Iterator[System]:
    environ = dict(os.environ) | {
        "DB_DSN": dsn,
        "RMQ_USER": broker_vhost.user,
        "RMQ_PASS": broker_vhost.password,
        "RMQ_HOST": broker_vhost.host,
        "RMQ_PORT": str(broker_vhost.port),
        "RMQ_VHOST": broker_vhost.vhost,
        "QUEUES": "high,default",
        "WORKER_HANDLERS": "tests.support.handlers",
        "HANDLER_LOG": str(handler_log),
        "PYTHONPATH": str(REPOSITORY),
        "WORKER_DRAIN": "5s",
    }
    with ExitStack() as stack:
        yield System(folder=tmp_path, environ=environ, handler_log=handler_log, stack=stack)


@pytest.fixture
def declared(system: System) -> System:
    """A system with its queues and the sample types declared."""
    vhost = system.environ["RMQ_VHOST"]
    system.run("apply", "-f", "-", stdin=MANIFESTS.replace("VHOST", json.dumps(vhost)))
    return system


MANIFESTS = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  vhost: VHOST
  queues: [{name: high}, {name: default}]
  retry: {delaysSeconds: [1, 3600]}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.note.v1}
spec: {maxAttempts: 5, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.fail.v1}
spec: {maxAttempts: 5, backoff: {delaysSeconds: [3600]}}
"""

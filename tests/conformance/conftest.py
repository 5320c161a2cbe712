"""The workers under test: ours, the Go worker of examples/, or the command of CONFORMANCE_WORKER.

A worker finds the services by DB_DSN and RMQ_*, and serves the types of `handlers.py` from queue tasks.default.
"""

import asyncio
import os
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tests.support.addresses import BrokerVhost
from tests.support.system import REPOSITORY, Process, System, call, dtq_command, opened
from tests.support.waiting import LONG_SECONDS, eventually

GIVEN = os.environ.get("CONFORMANCE_WORKER")
WORKERS = ["given"] if GIVEN else ["dtq", "go"]
MANIFESTS = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: default}]
  retry: {delaysSeconds: [1]}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: conform.ok.v1}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: conform.fail.v1}
spec: {maxAttempts: 2, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: conform.slow.v1}
spec: {maxAttempts: 3, timeoutSeconds: 30, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: conform.other.v1}
"""


@pytest.fixture(scope="session")
def go_worker(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the Go worker, after building it."""
    program = tmp_path_factory.mktemp("worker-go") / "worker"
    command = ["go", "build", "-trimpath", "-o", str(program), "."]
    done = subprocess.run(
        command, cwd=REPOSITORY / "examples/worker-go", capture_output=True, text=True, check=False,
        env=os.environ | {"CGO_ENABLED": "0"}, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, f"go build failed, is Go 1.25 or newer installed? {done.stderr}"
    return [str(program)]


@pytest.fixture(params=WORKERS)
def command(request: pytest.FixtureRequest) -> list[str]:
    """The command that starts the worker under test."""
    match request.param:
        case "go":
            built: list[str] = request.getfixturevalue("go_worker")
            return built
        case "dtq":
            return dtq_command("worker")
        case _:
            assert GIVEN is not None
            return shlex.split(GIVEN)


@dataclass(slots=True, kw_only=True)
class Bench:
    """An API, and workers under test."""

    system: System
    command: list[str]
    api: Process
    dsn: str
    broker: Any

    def worker(self) -> "subprocess.Popen[bytes]":
        """Start a worker."""
        return self.system.start("worker", program=self.command).popen

    async def enqueue(self, type_: str, payload: Any) -> str:
        """Store a task and return its id."""
        status, _, body = await call(f"http://{self.api.address}/enqueue", {"type": type_, "payload": payload})
        assert status == 201, body
        return str(body["id"])

    async def task(self, id_: str) -> Any:
        """The task as the API shows it."""
        return (await call(f"http://{self.api.address}/tasks/{id_}"))[2]

    async def events(self, id_: str) -> list[str]:
        """The names of a task's events, in order."""
        found = (await call(f"http://{self.api.address}/tasks/{id_}/events"))[2]
        return [event["event"] for event in found["events"]]

    async def until(self, id_: str, status: str, seconds: float = 60.0) -> Any:
        """The task, once it has that status."""

        async def reached() -> bool:
            return bool((await self.task(id_))["status"] == status)

        await eventually(reached, f"{id_} is {status}; logs are in {self.system.folder}", seconds)
        return await self.task(id_)

    async def sql(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """Run a statement."""
        connection = await asyncpg.connect(self.dsn)
        try:
            rows: list[asyncpg.Record] = await connection.fetch(statement, *args)
        finally:
            await connection.close()
        return rows

    async def publish(self, body: str) -> None:
        """Put a message into the work queue."""
        message = {
            "properties": {"delivery_mode": 2},
            "routing_key": "default",
            "payload": body,
            "payload_encoding": "string",
        }
        path = f"/api/exchanges/{self.broker.vhost}/tasks.direct/publish"
        await asyncio.to_thread(self.broker.management.call, "POST", path, message)

    async def leased(self, count: int = 1) -> None:
        """Wait until at least `count` workers hold a lease."""

        async def held() -> bool:
            (row,) = await self.sql("SELECT count(*) FROM workers WHERE lease_expires_at > now()")
            return int(row[0]) >= count

        await eventually(held, f"{count} leases", LONG_SECONDS)


@pytest.fixture
def system(tmp_path: Path, dsn: str, broker_vhost: BrokerVhost) -> Iterator[System]:
    environ = {"QUEUES": "default", "WORKER_HANDLERS": "tests.conformance.handlers"}
    with opened(tmp_path, dsn, broker_vhost, **environ) as system:
        yield system


@pytest.fixture
async def bench(system: System, command: list[str], dsn: str, broker_vhost: BrokerVhost) -> Bench:
    """A declared system with an API and without a worker."""
    system.run("apply", "-f", "-", stdin=MANIFESTS)
    api = system.api()
    await api.ready("/healthz")  # readiness does not wait for the broker
    return Bench(system=system, command=command, api=api, dsn=dsn, broker=broker_vhost)

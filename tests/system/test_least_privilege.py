"""Every process with the users of docs/install.md and no more: a whole life of tasks, maintenance, and a lost queue."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import uuid4

import pytest
import pytest_asyncio

from dtq_db.migrations import migrate, roles_script
from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import vhost_of
from tests.support.rabbitmqctl import rabbitmqctl
from tests.support.roles import as_user
from tests.support.services import Services
from tests.support.system import REPOSITORY, Process, System, call, opened
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually
from tests.system.test_life import enqueue, has_started, has_status

PAGE: Final = (REPOSITORY / "docs" / "install.md").read_text()
REFUSED: Final = re.compile(r"lacks a privilege|permission denied|ACCESS_REFUSED|loop step crashed")
"""What no log may hold while every queue is there."""
MANIFESTS: Final = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: high}, {name: default}]
  retry: {delaysSeconds: [1]}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.note.v1}
spec:
  maxAttempts: 5
  backoff: {delaysSeconds: [1]}
  concurrency: {limit: 2}
  schedule: [{name: yearly, cron: "0 0 1 1 *", payload: {}}]
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.fail.v1}
spec: {maxAttempts: 1}
"""


@dataclass(kw_only=True)
class Restricted:
    """A system whose processes have users of their own; its commands have the operator's."""

    system: System
    postgres: Postgres
    broker: RabbitMQ
    api: Process
    worker: Process

    def sql(self, statement: str) -> str:
        """Run a statement as the administrator."""
        return self.postgres.sql(statement, database="dtq")

    def refusals(self) -> list[str]:
        """Return what the processes logged about permissions, and errors that nothing expected."""
        return [line for process in self.system.processes for line in _refusals(process)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def restricted(services: Services, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Restricted]:
    """Servers of their own, set up as the page says, word for word."""
    postgres = await asyncio.to_thread(services.new_postgres)
    broker = await asyncio.to_thread(services.new_rabbitmq)
    try:
        await migrate(postgres.dsn())
        for script in (await roles_script(postgres.dsn()), _block("CREATE ROLE")):
            await asyncio.to_thread(postgres.sql, script, database="dtq")
        for line in _block("rabbitmqctl add_user").splitlines():
            await rabbitmqctl(broker, *shlex.split(line)[1:])
        folder = tmp_path_factory.mktemp("restricted")
        with opened(folder, postgres.dsn(), vhost_of(broker), **user_of("operator", postgres)) as system:
            await asyncio.to_thread(system.run, "apply", "-f", "-", stdin=MANIFESTS)
            api = system.api(**user_of("api", postgres))
            worker = system.worker(**user_of("worker", postgres))
            await api.ready()
            await worker.ready()
            yield Restricted(system=system, postgres=postgres, broker=broker, api=api, worker=worker)
    finally:
        await asyncio.to_thread(postgres.destroy)
        await asyncio.to_thread(broker.destroy)


async def test_tasks_run_retry_fail_and_are_redriven_and_cancelled(restricted: Restricted) -> None:
    api = restricted.api
    assert (await has_status(api, await enqueue(api), "SUCCEEDED"))["attempts"] == 1
    assert (await has_status(api, await enqueue(api, fail_first=True), "SUCCEEDED"))["attempts"] == 2
    failed = await enqueue(api, "sample.fail.v1")
    await has_event(api, failed, "DLQ", 1)
    status, _, answer = await call(f"http://{api.address}/dlq/redrive", {"ids": [failed]})
    assert (status, answer["redriven"]) == (200, 1), answer
    await has_event(api, failed, "DLQ", 2)
    running = [await enqueue(api, first_seconds=600) for _ in range(2)]
    for id_ in running:
        await has_started(restricted.system, id_)
    blocked = await enqueue(api)
    for id_ in running:
        assert (await call(f"http://{api.address}/tasks/{id_}/cancel", {}))[0] in (200, 202)
        await has_status(api, id_, "CANCELLED")
    await has_status(api, blocked, "SUCCEEDED")
    for wanted in ("ENQUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"):
        assert (await call(f"http://{api.address}/tasks?status={wanted}"))[0] == 200
    assert (await call(f"http://{api.address}/queues/default/scaling"))[0] == 200
    assert (await call(f"http://{api.address}/healthz"))[0] == 200
    assert restricted.refusals() == []


async def test_tasks_of_a_lost_worker_are_taken_back(restricted: Restricted) -> None:
    id_ = await enqueue(restricted.api, first_seconds=600)
    await has_started(restricted.system, id_)
    restricted.worker.kill()
    restricted.worker = restricted.system.worker(**user_of("worker", restricted.postgres))
    await restricted.worker.ready()
    assert (await has_status(restricted.api, id_, "SUCCEEDED", seconds=LONG_SECONDS))["attempts"] == 2
    assert restricted.refusals() == []


async def test_a_schedule_fires(restricted: Restricted) -> None:
    async def is_planned() -> bool:
        return bool(await asyncio.to_thread(restricted.sql, "SELECT next_fire_at FROM schedule"))

    await eventually(is_planned, "the scheduler has planned the entry", LONG_SECONDS)
    await asyncio.to_thread(restricted.sql, "UPDATE schedule SET next_fire_at = now() - interval '1 second'")

    async def has_run() -> bool:
        found = "SELECT 1 FROM tasks WHERE status = 'SUCCEEDED' AND idempotency_key LIKE '%yearly%'"
        return await asyncio.to_thread(restricted.sql, found) == "1"

    await eventually(has_run, "its task has run", LONG_SECONDS)
    assert restricted.refusals() == []


async def test_the_day_changes_and_old_tasks_and_history_are_dropped(restricted: Restricted) -> None:
    """At UTC midnight the partition of a week ahead is missing, as it is here."""
    today = datetime.now(UTC).date()
    ahead, old = f"task_events_{today + timedelta(days=7):%Y%m%d}", f"task_events_{today - timedelta(days=90):%Y%m%d}"
    id_ = str(uuid4())
    changed = f"""
        DROP TABLE {ahead};
        SELECT dtq_create_event_partition('{today - timedelta(days=90)}');
        INSERT INTO tasks (id, type, queue, status, payload, updated_at)
        VALUES ('{id_}', 'sample.note.v1', 'default', 'SUCCEEDED', '{{}}', now() - interval '8 days');
        UPDATE prune_slice SET look_at = now();
    """
    await asyncio.to_thread(restricted.sql, changed)
    process = restricted.system.maintenance(**user_of("api", restricted.postgres))
    await process.ready()

    async def is_so() -> bool:
        found = await asyncio.to_thread(
            restricted.sql,
            f"SELECT (SELECT relowner::regrole FROM pg_class WHERE oid = to_regclass('{ahead}')),"
            f" to_regclass('{old}') IS NULL, NOT EXISTS (SELECT 1 FROM tasks WHERE id = '{id_}')",
        )
        return found == "dtq_owner|t|t"

    await eventually(is_so, "the partition is created, the old one and the task are dropped", LONG_SECONDS)
    assert await asyncio.to_thread(process.terminate) == 0
    assert restricted.refusals() == []


async def test_a_lost_queue_is_used_again_once_it_is_declared(restricted: Restricted) -> None:
    api, management = restricted.api, restricted.broker.management
    await asyncio.to_thread(management.call, "DELETE", "/api/queues/%2F/tasks.default")

    async def is_refused() -> bool:
        return (await call(f"http://{api.address}/enqueue", {"type": "sample.note.v1", "payload": {}}))[0] == 503

    await eventually(is_refused, "nothing is accepted that cannot run", CHANGE_SECONDS)

    async def says_why() -> bool:
        told = (await call(f"http://{api.address}/healthz"))[2]
        return "let the operator or `dtq apply` declare it" in str(told)

    await eventually(says_why, "/healthz says who must act", CHANGE_SECONDS)
    await asyncio.to_thread(restricted.system.run, "apply", "-f", "-", stdin=MANIFESTS)

    async def is_accepted() -> Any:
        status, _, task = await call(f"http://{api.address}/enqueue", {"type": "sample.note.v1", "payload": {}})
        return task["id"] if status == 201 else None

    id_ = await eventually(is_accepted, "tasks are accepted again", LONG_SECONDS)
    await has_status(api, id_, "SUCCEEDED", seconds=LONG_SECONDS)


def user_of(role: str, postgres: Postgres) -> dict[str, str]:
    """The environment that gives a process the users of the page."""
    return {
        "DB_DSN": as_user(postgres.dsn(), f"{role}_1", "PASSWORD"),
        "RMQ_USER": f"dtq_{role}",
        "RMQ_PASS": "PASSWORD",
    }


async def has_event(api: Process, id_: str, event: str, count: int) -> None:
    """Wait until the history of a task holds an event this often."""

    async def is_so() -> bool:
        found = (await call(f"http://{api.address}/tasks/{id_}/events"))[2]["events"]
        return [each["event"] for each in found].count(event) == count

    await eventually(is_so, f"{event} {count} times", LONG_SECONDS)


def _refusals(process: Process) -> list[str]:
    return [line for line in process.log.read_text().splitlines() if REFUSED.search(line)]


def _block(word: str) -> str:
    blocks: list[str] = re.findall(r"^```\w*\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [block for block in blocks if word in block]
    return found

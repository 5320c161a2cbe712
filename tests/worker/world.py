"""What the worker tests share: a database, a virtual host, and whole workers inside the test's process."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
from prometheus_client import CollectorRegistry

from dtq.broker import messages
from dtq.broker.publish_window import Message
from dtq.broker.publisher import Publisher
from dtq.domain.backoff import Backoff
from dtq.domain.queue_sets import QueueSets
from dtq.handlers import Handler
from dtq.runtime.environment import load
from dtq.runtime.loops import Ticker
from dtq.runtime.metrics import BrokerMetrics, MaintenanceMetrics
from dtq.runtime.settings import AllSettings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_maintenance.confirms import Confirms
from dtq_maintenance.reaper import Reaper
from dtq_maintenance.relay import Relay
from dtq_reconcile.embedded import ensure_default
from dtq_worker.main import Worker
from dtq_worker.registry import load as load_handlers
from tests.broker.world import up
from tests.db.world import World as Rows
from tests.support.addresses import BrokerVhost, free_address
from tests.support.waiting import eventually

MODULE = "tests.worker.handlers"
NAMESPACE = "tasks"


@dataclass(kw_only=True)
class World:
    """A database, a virtual host, and the parts of an API that a worker needs beside it."""

    dsn: str
    vhost: BrokerVhost
    rows: Rows
    database: Database
    publisher: Publisher
    relay: Relay
    reaper: Reaper

    def settings(self, **environ: str) -> AllSettings:
        """A worker's settings."""
        return _settings(self.dsn, self.vhost, environ)

    async def declare(self, *types: str, backoff: dict[str, Any] | None = None, **columns: Any) -> None:
        """Declare types of the default queue set; by default every sample handler's."""
        values = {"default_queue": "default", "backoff": backoff and json.dumps(backoff)} | columns
        names, places = ", ".join(values), ", ".join(f"${n}" for n in range(2, 2 + len(values)))
        for type_ in types or sorted(load_handlers([MODULE])):
            await self.rows.sql.execute(
                f"INSERT INTO task_type (type, {names}) VALUES ($1, {places})", type_, *values.values()
            )

    async def enqueue(self, type_: str, count: int = 1, *, max_attempts: int = 1, **payload: Any) -> list[UUID]:
        """Store tasks and publish their messages."""
        ids = await self.rows.enqueue(count, type_=type_, payload=json.dumps(payload), max_attempts=max_attempts)
        versions = {id_: await self.rows.version(id_) for id_ in ids}
        await self.send_work(ids, type_)
        await self.rows.confirm(versions)
        return ids

    async def send_work(self, ids: Sequence[UUID], type_: str) -> None:
        """Publish the messages of tasks."""
        await self.send([messages.work(NAMESPACE, "default", id_, type_) for id_ in ids])

    async def send(self, messages: Sequence[Message]) -> None:
        """Publish messages."""
        await up(self.publisher.broker)
        refused = [answer for answer in await self.publisher.publish(messages) if answer is not None]
        if refused:
            raise RuntimeError(refused[0])

    async def ended(self, *ids: UUID, seconds: float = 30.0) -> list[asyncpg.Record]:
        """Wait until tasks are terminal; return their rows."""
        return [await self.has(id_, "SUCCEEDED", "FAILED", "CANCELLED", seconds=seconds) for id_ in ids]

    async def has(self, id_: UUID, *statuses: str, seconds: float = 30.0) -> asyncpg.Record:
        """Wait until a task has one of these statuses; return its row."""

        async def it_has() -> bool:
            return (await self.rows.row(id_))["status"] in statuses

        await eventually(it_has, f"task {id_} is {' or '.join(statuses)}", seconds)
        return await self.rows.row(id_)

    async def ready(self, queue: str = "tasks.default") -> int:
        """Return how many messages of a queue are ready."""
        channel = await self.publisher.broker.connection().channel(publisher_confirms=False)
        answer = await channel.queue_declare(queue, passive=True)
        await channel.close()
        return int(answer.message_count or 0)

    @asynccontextmanager
    async def worker(self, **environ: str) -> AsyncIterator["Running"]:
        """Run a worker until the block ends; it consumes and has its lease when the block begins."""
        settings = self.settings(**environ)
        async with Database(settings.db_dsn.get_secret_value(), name="dtq-worker") as database:
            queue_sets = await catalog.queue_sets(database)
            handlers: dict[str, Handler] = dict(load_handlers(settings.worker_handlers))
            worker = Worker(settings, database, handlers, queue_sets, Ticker())
            stop = asyncio.Event()
            running = Running(worker=worker, stop=stop, task=asyncio.ensure_future(worker.run(stop)), settings=settings)
            try:
                await eventually(running.has_begun, "the worker consumes")
                yield running
            finally:
                await running.end()


@dataclass(kw_only=True)
class Running:
    """A worker that runs in this process."""

    worker: Worker
    stop: asyncio.Event
    task: "asyncio.Task[None]"
    settings: AllSettings

    async def is_ready(self) -> bool:
        """Return whether it has a lease and consumes, or has no room."""
        if self.task.done():
            self.task.result()
        return not await self.worker._trouble()

    async def has_begun(self) -> bool:
        """Return whether it is ready and has room."""
        return await self.is_ready() and self.worker.consumer.window > 0

    async def end(self) -> None:
        """Stop the worker as a signal does, and wait for its end."""
        self.stop.set()
        await self.task

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.worker.registry.get_sample_value(name, labels) or 0.0

    async def counted(self, value: float, name: str, **labels: str) -> None:
        """Wait until a metric has this value: a row shows an end before its worker counts it."""

        async def it_is() -> bool:
            return self.count(name, **labels) == value

        await eventually(it_is, f"{name} is {value:g}")

    @property
    def url(self) -> str:
        """The URL of its probes."""
        host, port = self.settings.worker_http_port
        return f"http://{host}:{port}"


@asynccontextmanager
async def open_world(dsn: str, vhost: BrokerVhost) -> AsyncIterator[World]:
    """A world on a fresh database and virtual host, with the default queue set written."""
    settings = _settings(dsn, vhost, {})
    stop = asyncio.Event()
    async with Database(dsn, name="test") as database, asyncio.TaskGroup() as tasks:
        await ensure_default(database, settings)
        connection = await asyncpg.connect(dsn)
        registry = CollectorRegistry()
        metrics = MaintenanceMetrics(registry)
        publisher = Publisher(
            vhost.url, declare=_nothing, refusal=_none, metrics=BrokerMetrics(registry), timeout_seconds=5.0
        )
        try:
            tasks.create_task(publisher.broker.run(stop))
            confirms = Confirms(database)
            tasks.create_task(confirms.run(stop, Ticker()))
            yield World(
                dsn=dsn,
                vhost=vhost,
                rows=Rows(connection),
                database=database,
                publisher=publisher,
                relay=Relay(
                    database,
                    publisher,
                    queue_sets=QueueSets(await catalog.queue_sets(database)),
                    confirmed=confirms.add,
                    closed=list,
                    metrics=metrics,
                ),
                reaper=Reaper(database, backoff=Backoff(delays_seconds=(1.0,)), metrics=metrics),
            )
        finally:
            stop.set()
            connection.terminate()


async def _nothing(_: object) -> None:
    """The workers declare."""


def _none(_: str) -> str | None:
    return None


def _settings(dsn: str, vhost: BrokerVhost, environ: dict[str, str]) -> AllSettings:
    return load(
        {
            **vhost.environ(dsn),
            "QUEUES": "high,default",
            "BACKOFFS": "1s,3600s",
            "WORKER_HANDLERS": MODULE,
            "WORKER_HTTP_PORT": free_address(),
        }
        | environ,
        AllSettings,
    )

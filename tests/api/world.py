"""What the API's tests share: an API in this process on real services, and its declared types.

No part of the API is replaced; a test that needs the socket or the loops uses `serving`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import httpx2
from prometheus_client.parser import text_string_to_metric_families

from dtq.broker.admin import ready_counts
from dtq.domain.manifests import QueueSet, TaskType
from dtq.domain.rows import queue_set_row, task_type_row
from dtq.runtime.environment import load
from dtq.runtime.settings import AllSettings
from dtq_api.main import Api
from dtq_db.connections import Database, Dsn
from dtq_db.resources import transaction
from hack.lib import ports
from tests.api.conformance import conforms
from tests.support.addresses import BrokerVhost
from tests.support.waiting import READY_SECONDS, eventually

ANY: Final = "sample.any.v1"
SMALL: Final = "sample.small.v1"
STRICT: Final = "sample.strict.v1"
DEEP: Final = "sample.deep.v1"
OFF: Final = "sample.off.v1"
STRAY: Final = "sample.stray.v1"
NAMESPACE: Final = "tasks"
QUEUES: Final = ("high", "default", "low")
SMALL_BYTES: Final = 100

TYPES: Final[Mapping[str, Mapping[str, Any]]] = {
    ANY: {"maxPayloadBytes": 1_048_576},
    SMALL: {"maxPayloadBytes": SMALL_BYTES, "queue": "low"},
    STRICT: {
        "maxAttempts": 3,
        "payloadSchema": {
            "type": "object",
            "required": ["to"],
            "properties": {"to": {"type": "string", "pattern": "@", "maxLength": 50}, "copies": {"type": "integer"}},
            "additionalProperties": False,
        },
    },
    DEEP: {"payloadSchema": {"additionalProperties": {"$ref": "#"}}},
    OFF: {"active": False},
    STRAY: {"queueSetRef": {"name": "nowhere"}},
}

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """An API, a client of it, and a connection to look at what it wrote."""

    api: Api
    client: httpx2.AsyncClient
    sql: Connection
    broker: BrokerVhost

    def client_at(self, address: str) -> httpx2.AsyncClient:
        """Return a client that connects from an address."""
        return _client(self.api, address)

    async def enqueue(self, type_: str = ANY, payload: Any = None, **fields: Any) -> httpx2.Response:
        return await self.client.post("/enqueue", json={"type": type_, "payload": payload or {}} | fields)

    async def enqueued(self, type_: str = ANY, payload: Any = None, **fields: Any) -> UUID:
        answer = await self.enqueue(type_, payload, **fields)
        assert answer.status_code == 201, answer.text
        return UUID(answer.json()["id"])

    async def written(self) -> tuple[int, int]:
        """Return the number of tasks and of events."""
        row = await self.sql.fetchrow("SELECT (SELECT count(*) FROM tasks), (SELECT count(*) FROM task_events)")
        assert row is not None
        return row[0], row[1]

    async def row(self, id_: UUID) -> asyncpg.Record:
        row = await self.sql.fetchrow("SELECT * FROM tasks WHERE id = $1", id_)
        assert row is not None, f"no task {id_}"
        return row

    async def events(self, id_: UUID) -> list[str]:
        rows = await self.sql.fetch("SELECT event FROM task_events WHERE task_id = $1 ORDER BY at, id", id_)
        return [row["event"] for row in rows]

    async def ready(self, queue: str = "default") -> int:
        """Return how many messages wait in a queue."""
        name = f"{NAMESPACE}.{queue}"
        return (await ready_counts(self.api.maintenance.publisher.broker, [name]))[name] or 0

    async def becomes_ready(self, count: int, queue: str = "default") -> None:
        async def so() -> bool:
            return await self.ready(queue) == count

        await eventually(so, f"{queue} holds {count} messages")

    async def metric(self, name: str, **labels: str) -> float:
        """Return the value of a metric; 0 if it was never set."""
        return metric((await self.client.get("/metrics")).text, name, **labels)

    async def end(self, id_: UUID, status: str, *, error: str | None = None) -> None:
        """Bring a task to the end of its first attempt, as a worker would."""
        worker = await self.run(id_)
        await self.sql.execute(
            "SELECT dtq_finish(ARRAY[$1::uuid], ARRAY[$2::uuid], ARRAY[1], ARRAY[$3], ARRAY[NULL], ARRAY[$4::text],"
            " ARRAY[0.0::float8], ARRAY[0.0::float8], ARRAY[false], ARRAY[false])",
            worker, id_, status, error,
        )  # fmt: skip
        assert (await self.row(id_))["status"] == status

    async def run(self, id_: UUID, *, lease_seconds: float = 60.0) -> UUID:
        """Have a new worker claim a task; return the worker."""
        row = await self.row(id_)
        worker: UUID = await self.sql.fetchval("SELECT gen_random_uuid()")
        await self.sql.execute(
            "SELECT dtq_register($1, 'w', ARRAY[$2], ARRAY[$3], 8, $4)",
            worker,
            row["queue"],
            row["type"],
            lease_seconds,
        )
        claimed = await self.sql.fetch(
            "SELECT id FROM dtq_claim($1, ARRAY[$2::uuid], ARRAY[$3], 1)", worker, id_, row["type"]
        )
        assert [claim["id"] for claim in claimed] == [id_], f"{id_} was not claimed"
        return worker

    async def failed(self, type_: str = ANY, **fields: Any) -> UUID:
        id_ = await self.enqueued(type_, {"to": "ada@example.com"} if type_ == STRICT else None, **fields)
        await self.end(id_, "FAILED", error="boom")
        return id_


def metric(exposition: str, name: str, **labels: str) -> float:
    """Return the value of a metric in a text exposition."""
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return 0.0


async def declare(dsn: Dsn, types: Mapping[str, Mapping[str, Any]] = TYPES, **spec: Any) -> None:
    """Declare a QueueSet `default` and these TaskTypes."""
    queue_set = QueueSet.model_validate(
        {
            "kind": "QueueSet",
            "metadata": {"name": "default"},
            "spec": {
                "namespace": NAMESPACE,
                # One as in production; classic ones are declared sooner, and tests declare many.
                "queues": [{"name": name} | ({"type": "Classic"} if name != "default" else {}) for name in QUEUES],
                "retry": {"delaysSeconds": [5]},
            }
            | spec,
        }
    )
    async with Database(dsn, name="test") as database, transaction(database) as resources:
        await resources.put_queue_set(queue_set_row(queue_set))
        for name, declared in types.items():
            manifest = TaskType.model_validate({"kind": "TaskType", "metadata": {"name": name}, "spec": dict(declared)})
            await resources.put_task_type(task_type_row(manifest))


def _client(api: Api, address: str) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app=api.front, raise_app_exceptions=False, client=(address, 1))
    return httpx2.AsyncClient(transport=transport, base_url="http://api", event_hooks={"response": [conforms]})


@asynccontextmanager
async def running(dsn: str, broker: BrokerVhost, *, up: bool = True, **environ: str) -> AsyncIterator[Running]:
    """An API without its server and loops: requests go in directly, and the test calls the loops' steps.

    Args:
        up: wait for the broker.
    """
    settings = load(broker.environ(dsn, **environ), AllSettings)
    stop = asyncio.Event()
    async with Database(dsn, name="dtq-api") as database:
        api = Api(settings, database)
        await api.catalog.refresh()
        link = asyncio.create_task(api.maintenance.publisher.broker.run(stop))
        sql = await asyncpg.connect(dsn)
        try:
            if up:
                async with asyncio.timeout(READY_SECONDS):
                    await api.maintenance.publisher.broker.up.wait()
            async with _client(api, "127.0.0.1") as client:
                yield Running(api=api, client=client, sql=sql, broker=broker)
        finally:
            await api.group_commit.idle()
            await api.large_group_commit.idle()
            await api.authenticator.close()
            stop.set()
            await link
            sql.terminate()


@asynccontextmanager
async def serving(dsn: str, broker: BrokerVhost, **environ: str) -> AsyncIterator[tuple[Api, str, int]]:
    """Yield a whole API with its loops behind a socket, its host and its port."""
    port = ports.choose(1)[0]
    settings = load(broker.environ(dsn, HTTP_PORT=f"127.0.0.1:{port}", **environ), AllSettings)
    stop = asyncio.Event()
    async with Database(dsn, name="dtq-api") as database:
        api = Api(settings, database)
        process = asyncio.create_task(api.run(stop))
        try:
            await eventually(lambda: _listens(port, process), f"the API listens on {port}")
            yield api, "127.0.0.1", port
        finally:
            stop.set()
            await process


async def _listens(port: int, process: "asyncio.Task[None]") -> bool:
    if process.done():
        await process
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem document of an answer, after checking its required members."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = json.loads(answer.content)
    assert body["type"] == f"https://dtq.dev/problems/{code}", body
    assert body["status"] == status
    assert body["detail"] == body["error"]
    assert body["detail"]
    assert body["title"]
    assert set(body) <= {"type", "title", "status", "detail", "error", "errors"}
    return body

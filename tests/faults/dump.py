"""Saves what is left after a run, for the checker, and clears it for the next run.

Called when the system is quiet; connects to the servers directly, not through the proxies.
"""

import asyncio
import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import httpx2
from prometheus_client.parser import text_string_to_metric_families

from dtq.domain.manifests import QueueSet
from dtq.domain.topology import topology_of
from dtq_reconcile.parse import parse
from hack.stack.management import Management
from tests.faults import history
from tests.faults.history import DeadLetter, Declared, Metric, Span, TypePolicy
from tests.faults.world import DELAYS_SECONDS, MANIFESTS, MAX_ATTEMPTS, VHOST, World

DEAD_LETTERS_MAX: Final = 100_000
"""Most dead letters read; a run makes far fewer."""
DLQ: Final = f"/api/queues/{VHOST}/{quote('tasks.dlq')}"
SCRAPE_SECONDS: Final = 10.0
"""Longest wait for the metrics of a process, in seconds."""
_COUNTED: Final = ("_total", "_count", "_sum", "_bucket")
_TABLES: Final = {
    "tasks": "SELECT to_jsonb(t) FROM tasks t ORDER BY id",
    "events": "SELECT to_jsonb(e) FROM task_events e ORDER BY id",
    "workers": "SELECT to_jsonb(w) FROM workers w ORDER BY started_at",
}


async def dump(
    world: World, folder: Path, *, handler_offset: int, started_at: float, metrics_before: list[Metric]
) -> None:
    """Write tasks, events, workers, dead letters, metrics, what was declared, what the processes logged, and what the
    handlers noted since `handler_offset`.
    """
    connection = await asyncpg.connect(world.postgres.dsn("dtq", user="postgres"))
    try:
        for name, query in _TABLES.items():
            history.write(folder, name, [row[0] for row in await connection.fetch(query)])
    finally:
        await connection.close()
    history.write(folder, "dlq", await asyncio.to_thread(_dead_letters, world.rabbitmq.management))
    history.write(folder, "metrics", _since(metrics_before, await scrape(world)))
    history.write(folder, "types", _policies())
    history.write(folder, "exits", world.exits)
    history.write(folder, "declared", await asyncio.to_thread(_declared, world.rabbitmq.management))
    history.write(folder, "span", [Span(started_at=started_at, ended_at=time.time())])
    with world.system.handler_log.open("rb") as log:
        log.seek(handler_offset)
        (folder / "handler.jsonl").write_bytes(log.read())
    for name, text in world.logs():
        (folder / name).write_bytes(text)


async def clear(world: World) -> None:
    """Delete every task, for the next run on the same servers."""
    connection = await asyncpg.connect(world.postgres.dsn("dtq", user="postgres"))
    try:
        await connection.execute("TRUNCATE tasks, task_events")
        await connection.execute("DELETE FROM workers WHERE lease_expires_at < now()")
    finally:
        await connection.close()
    await asyncio.to_thread(world.rabbitmq.management.call, "DELETE", f"{DLQ}/contents")


def _dead_letters(management: Management) -> list[DeadLetter]:
    asked = {"count": DEAD_LETTERS_MAX, "ackmode": "ack_requeue_true", "encoding": "auto", "truncate": 1000}
    return [
        DeadLetter(id=json.loads(message["payload"])["id"]) for message in management.call("POST", f"{DLQ}/get", asked)
    ]


def _declared(management: Management) -> list[Declared]:
    """Return which queues and bindings there are, of those that ought to be."""
    queues = {queue["name"] for queue in management.call("GET", f"/api/queues/{VHOST}")}
    bindings = {
        f"{binding['source']} -{binding['routing_key']}-> {binding['destination']}"
        for binding in management.call("GET", f"/api/bindings/{VHOST}")
    }
    topology = topology_of(next(manifest.spec for manifest in parse(MANIFESTS) if isinstance(manifest, QueueSet)))
    wanted = {queue.name for queue in topology.queues}
    routes = {f"{binding.exchange} -{binding.routing_key}-> {binding.queue}" for binding in topology.bindings}
    return [
        *(Declared(kind="queue", name=name, wanted=True, found=name in queues) for name in sorted(wanted)),
        *(Declared(kind="binding", name=name, wanted=True, found=name in bindings) for name in sorted(routes)),
    ]


def _policies() -> list[TypePolicy]:
    return [
        TypePolicy(type=name, max_attempts=most, delays_seconds=list(DELAYS_SECONDS))
        for name, most in MAX_ATTEMPTS.items()
    ]


def _since(before: list[Metric], now: list[Metric]) -> list[Metric]:
    """Return what was counted since; a gauge is what it is."""
    known = {_identity(metric): metric.value for metric in before if metric.name.endswith(_COUNTED)}
    return [replace(metric, value=metric.value - known.get(_identity(metric), 0.0)) for metric in now]


def _identity(metric: Metric) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    return metric.pid, metric.name, tuple(sorted(metric.labels.items()))


async def scrape(world: World) -> list[Metric]:
    """Return the metrics of every process; none of one that does not answer, which is a problem of its own."""
    found: list[Metric] = []
    async with httpx2.AsyncClient(timeout=SCRAPE_SECONDS) as client:
        for name, member in world.members.items():
            with suppress(httpx2.HTTPError):
                text = (await client.get(f"http://{member.address}/metrics")).text
                found += [
                    Metric(
                        process=name,
                        pid=member.process.popen.pid,
                        name=sample.name,
                        labels=sample.labels,
                        value=sample.value,
                    )
                    for family in text_string_to_metric_families(text)
                    for sample in family.samples
                ]
    return found

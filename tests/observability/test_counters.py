"""I20: what the processes counted is what the history says, summed over all of them."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import httpx2
from prometheus_client.parser import text_string_to_metric_families

from tests.support.system import Process, System, call
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually
from tests.system.conftest import declared, system

__all__ = ["declared", "system"]

NOTE = "sample.note.v1"
EVENTS: Mapping[str, list[tuple[int, str, dict[str, str]]]] = {
    "ENQUEUED": [
        (1, "dq_enqueue_total", {"status": "ok"}),
        (-1, "dq_enqueue_replayed_total", {}),
        (1, "dq_schedule_fired_total", {}),
    ],
    "RUNNING": [(1, "dq_deliveries_total", {"verdict": "claimed"})],
    "SUCCEEDED": [(1, "dq_tasks_finished_total", {"outcome": "succeeded"})],
    "FAILED": [(1, "dq_dead_letters_total", {}), (1, "dq_reaped_total", {"status": "FAILED"})],
    "RETRY": [(1, "dq_retries_total", {}), (1, "dq_reaped_total", {"status": "ENQUEUED"})],
    "CANCELLED": [(1, "dq_tasks_cancelled_total", {}), (1, "dq_reaped_total", {"status": "CANCELLED"})],
    "REDRIVE": [(1, "dq_redriven_total", {})],
    "RELEASED": [(1, "dq_released_total", {})],
    "DLQ": [(1, "dq_dead_letters_confirmed_total", {})],
}
"""Which counters, added and subtracted, are the number of events of a kind."""


async def samples(*processes: Process) -> list[Any]:
    found = []
    async with httpx2.AsyncClient() as client:
        for process in processes:
            text = (await client.get(f"http://{process.address}/metrics")).text
            for family in text_string_to_metric_families(text):
                found += family.samples
    return found


def counted(found: list[Any], name: str, labels: Mapping[str, str]) -> float:
    total = 0.0
    for sample in found:
        if sample.name == name and all(sample.labels[key] == labels[key] for key in labels):
            total += sample.value
    return total


async def test_counters_equal_the_history(declared: System, dsn: str) -> None:
    apis, worker = [declared.api(), declared.api()], declared.worker()
    for process in (*apis, worker):
        await process.ready()
    first, second = (f"http://{api.address}" for api in apis)
    for number in range(6):
        body = {"type": NOTE, "payload": {"fail_first": number == 0}, "idempotency_key": f"k{number}"}
        assert (await call(f"{first}/enqueue", body))[0] == 201
        assert (await call(f"{second}/enqueue", body))[0] == 201
    await call(f"{second}/enqueue", {"type": NOTE, "payload": {}, "queue": "nowhere"})
    _, _, failing = await call(f"{second}/enqueue", {"type": "sample.fail.v1", "payload": {}, "max_attempts": 1})
    later = {"type": NOTE, "payload": {}, "run_at": (datetime.now(UTC) + timedelta(days=1)).isoformat()}
    _, _, waiting = await call(f"{first}/enqueue", later)
    await call(f"{first}/tasks/{waiting['id']}/cancel", {})
    _, _, long = await call(f"{first}/enqueue", {"type": NOTE, "payload": {"first_seconds": 600}})
    connection = await asyncpg.connect(dsn)
    try:

        async def has(event: str, count: int) -> bool:
            sql = "SELECT count(*) FROM task_events WHERE event = $1"
            return bool(await connection.fetchval(sql, event) >= count)

        async def all_begun() -> bool:
            return await has("RUNNING", 9) and await has("DLQ", 1)

        await eventually(all_begun, "everything has begun, and what failed is a dead letter", LONG_SECONDS)
        await call(f"{second}/tasks/{long['id']}/cancel", {})
        await call(f"{second}/dlq/redrive", {"ids": [failing["id"], str(uuid4())]})

        async def all_ended() -> bool:
            return await has("CANCELLED", 2) and await has("SUCCEEDED", 6) and await has("DLQ", 2)

        await eventually(all_ended, "everything has ended", LONG_SECONDS)

        async def equal() -> bool:
            rows = await connection.fetch("SELECT event, count(*) AS count FROM task_events GROUP BY event")
            happened = Counter({row["event"]: row["count"] for row in rows})
            found = await samples(*apis, worker)
            told = {
                event: sum(sign * counted(found, name, labels) for sign, name, labels in terms)
                for event, terms in EVENTS.items()
            }
            assert all(told[event] <= happened[event] for event in EVENTS), (told, happened)
            return all(told[event] == happened[event] for event in EVENTS)

        await eventually(equal, "the counters equal the history", CHANGE_SECONDS)
    finally:
        await connection.close()
    found = await samples(*apis, worker)
    assert counted(found, "dq_task_attempts_count", {}) == 9
    assert counted(found, "dq_http_responses_total", {"route": "enqueue", "code": "201"}) == 15
    assert counted(found, "dq_http_responses_total", {"route": "enqueue", "code": "400"}) == 1


async def test_every_loop_says_when_it_last_ended_well(declared: System) -> None:
    api = declared.api()
    await api.ready()
    wanted = {
        *("catalog", "relay", "mover", "reaper", "pruner", "topology", "scheduler", "schedules", "backlog"),
        *("dead letters", "declarations"),
    }

    async def all_told() -> bool:
        found = await samples(api)
        return wanted == {
            sample.labels["loop"]
            for sample in found
            if sample.name == "dq_loop_last_success_timestamp_seconds" and sample.value
        }

    await eventually(all_told, "every loop has ended a step", LONG_SECONDS)
    found = await samples(api)
    assert counted(found, "dq_queue_waiting_tasks", {"queue_set": "default", "queue": "high"}) == 0
    assert {sample.labels["queue"] for sample in found if sample.name == "dq_queue_oldest_seconds"} == {
        "high",
        "default",
    }

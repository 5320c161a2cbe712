"""This version beside the next one: its schema, its rows, its words. What only the next version understands waits."""

import json
from http import HTTPStatus

import pytest

from tests.skew import next_version
from tests.skew.conftest import Skewed
from tests.skew.scenario import ends, enqueue, row
from tests.support.system import Process, call
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually

# The first test of a process starts the system, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

CATALOG_SECONDS = 15.0
"""The API has read the catalog again, in seconds."""
TYPE = "sample.note.v1"
COLUMNS = ("backoff", "concurrency", "rate_limit", "payload_schema")


def logs(process: Process, event: str) -> list[dict[str, object]]:
    """Return the log lines with that event."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == event]


async def until_logged(process: Process, event: str, more_than: int) -> dict[str, object]:
    """Wait for a further log line; return it."""

    async def told() -> bool:
        return len(logs(process, event)) > more_than

    await eventually(told, f"{event!r} is logged")
    return logs(process, event)[more_than]


async def all_run(skewed: Skewed) -> None:
    """Both processes serve, and an ordinary task succeeds."""
    await skewed.api.ready()
    await skewed.worker.ready()
    assert await ends(skewed.api, await enqueue(skewed.api, "sample.fail.v1", {}, max_attempts=1)) == "FAILED"


async def test_this_version_lives_on_the_next_versions_schema(skewed: Skewed) -> None:
    await all_run(skewed)  # the fixture has taken tasks through every transition


async def test_keys_that_only_the_next_version_knows_change_nothing(skewed: Skewed) -> None:
    await next_version.change_type(skewed.sql, TYPE, "concurrency", {"limit": 2})
    await next_version.change_type(skewed.sql, TYPE, "rate_limit", {"tasks": 1000, "perSeconds": 1})
    await next_version.extend_rows(skewed.sql)
    for _ in range(3):
        assert await ends(skewed.api, await enqueue(skewed.api, TYPE, {"fail_first": True})) == "SUCCEEDED"
    for column in ("concurrency", "rate_limit"):
        await next_version.change_type(skewed.sql, TYPE, column, None)
    await all_run(skewed)


UNREADABLE = {
    "a strategy": ("backoff", {"strategy": "Fibonacci", "baseSeconds": 5}, "backoff.strategy"),
    "a delay in words": ("backoff", {"strategy": "List", "delaysSeconds": ["P1D"]}, "backoff.delaysSeconds"),
    "no object": ("backoff", ["5s"], "backoff"),
    "a share of the slots": ("concurrency", {"limit": "50%"}, "concurrency.limit"),
    "no limit at all": ("concurrency", {"limits": [{"limit": 2}]}, "concurrency.limit"),
    "a list of rates": ("rate_limit", {"rates": [{"tasks": 1, "perSeconds": 1}]}, "rateLimit.tasks"),
    "a rate in words": ("rate_limit", {"tasks": "many", "perSeconds": 1}, "rateLimit.tasks"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_a_type_that_only_the_next_version_understands_waits_and_costs_nobody_anything(
    skewed: Skewed, kind: str
) -> None:
    column, value, place = UNREADABLE[kind]
    event = "newer task type found"
    told = len(logs(skewed.worker, event))
    await next_version.change_type(skewed.sql, TYPE, column, value)
    # What a claim returns is looked at again after it; limits are the claim's own, and known with the catalog.
    early = [await enqueue(skewed.api, TYPE, {})] if column == "backoff" else []
    line = await until_logged(skewed.worker, event, told)
    waiting = [*early, await enqueue(skewed.api, TYPE, {})]
    assert line["type"] == TYPE
    assert place in str(line["reason"])
    # Others go on meanwhile, and the type's task has cost no attempt.
    await all_run(skewed)
    for id_ in waiting:
        found = await row(skewed.sql, id_)
        assert (found["status"], found["attempts"], found["last_error"]) == ("ENQUEUED", 0, None)
    assert len(logs(skewed.worker, event)) == told + 1, "it is said once"
    # A worker of the next version, or its roll-back, ends the wait.
    await next_version.change_type(skewed.sql, TYPE, column, {"delaysSeconds": [1]} if column == "backoff" else None)
    assert [await ends(skewed.api, id_) for id_ in waiting] == ["SUCCEEDED"] * len(waiting)


async def test_queues_and_scaling_of_the_next_version_keep_nobody_else_from_work(skewed: Skewed) -> None:
    event = "newer queue found"
    await skewed.sql.execute("UPDATE queue SET scaling = '{\"mode\": \"Predictive\"}' WHERE name = 'high'")
    await skewed.sql.execute(
        "INSERT INTO queue (queue_set, name, position, type) VALUES ('default', 'log', 9, 'Stream')"
    )
    await skewed.sql.execute("UPDATE queue_set SET deletion_policy = 'Archive'")
    for process in (skewed.api, skewed.worker):
        await until_logged(process, event, 1)
        assert {line["queue"] for line in logs(process, event)} == {"high", "log"}
    assert await ends(skewed.api, await enqueue(skewed.api, TYPE, {"fail_first": True})) == "SUCCEEDED"
    status, _, answer = await call(f"http://{skewed.api.address}/queues/high/scaling")
    assert status == 503, "unknown is never a number"
    assert "Predictive" in json.dumps(answer)
    assert (await call(f"http://{skewed.api.address}/queues/default/scaling"))[0] == 200
    await all_run(skewed)
    await skewed.sql.execute("DELETE FROM queue WHERE name = 'log'")
    await skewed.sql.execute("UPDATE queue SET scaling = '{}'")


async def test_a_payload_schema_of_the_next_version_asks_the_client_to_come_back(skewed: Skewed) -> None:
    schema = {"$schema": "https://json-schema.org/v1", "type": "object"}
    await next_version.change_type(skewed.sql, TYPE, "payload_schema", schema)

    async def refused() -> bool:
        url = f"http://{skewed.api.address}/enqueue"
        status, headers, answer = await call(url, {"type": TYPE, "payload": {}})
        return status == 503 and "retry-after" in {name.lower() for name in headers} and "schema" in answer["detail"]

    async def accepted() -> bool:
        status, _, _ = await call(f"http://{skewed.api.address}/enqueue", {"type": TYPE, "payload": {}})
        return status == HTTPStatus.CREATED

    await eventually(refused, "503 with Retry-After", CATALOG_SECONDS)
    await next_version.change_type(skewed.sql, TYPE, "payload_schema", None)
    await eventually(accepted, "the type is accepted again", CATALOG_SECONDS)
    await all_run(skewed)


async def test_a_schedule_of_the_next_version_holds_up_no_other(skewed: Skewed) -> None:
    await skewed.sql.execute(
        "INSERT INTO schedule (type, name, cron, timezone, payload, next_fire_at)"
        " VALUES ($1, 'every', '@every 90s', 'UTC', '{}', now()),"
        " ($1, 'local', '* * * * *', 'Local/Solar', '{}', now()),"
        " ($1, 'minute', '* * * * *', 'UTC', '{}', now())",
        TYPE,
    )

    async def fired() -> bool:
        found = await skewed.sql.fetchval("SELECT next_fire_at > now() FROM schedule WHERE name = 'minute'")
        return bool(found) and len(logs(skewed.api, "schedule rejected")) == 2

    await eventually(fired, "the third entry fires, and the others are told of", CHANGE_SECONDS)
    await skewed.sql.execute("DELETE FROM schedule")
    await all_run(skewed)


async def test_a_lost_worker_of_such_a_type_is_reaped(skewed: Skewed) -> None:
    id_ = await enqueue(skewed.api, TYPE, {"first_seconds": 600})

    async def runs() -> bool:
        return str((await row(skewed.sql, id_))["status"]) == "RUNNING"

    await eventually(runs, "the task runs", CHANGE_SECONDS)
    await next_version.change_type(skewed.sql, TYPE, "backoff", {"strategy": "Fibonacci"})
    skewed.worker.kill()

    async def is_back() -> bool:
        return str((await row(skewed.sql, id_))["status"]) == "ENQUEUED"

    await eventually(is_back, "the reaper takes it back", LONG_SECONDS)
    await next_version.change_type(skewed.sql, TYPE, "backoff", {"delaysSeconds": [1]})
    skewed.worker = skewed.system.worker()
    await all_run(skewed)
    assert await ends(skewed.api, id_) == "SUCCEEDED"

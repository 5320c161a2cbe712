"""`POST /enqueue`: what is accepted, what is refused, and that a refusal leaves nothing."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from dtq.domain.limits import PAYLOAD_BYTES_MAX
from tests.api.world import ANY, OFF, SMALL, SMALL_BYTES, STRAY, STRICT, Running, problem

JSON = {"Content-Type": "application/json"}


async def test_a_task_is_stored_and_published_and_its_place_is_told(fresh_api: Running) -> None:
    answer = await fresh_api.enqueue(STRICT, {"to": "ada@example.com"})
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"id", "status", "queue"}
    assert body["status"] == "ENQUEUED"
    assert body["queue"] == "default"
    assert UUID(body["id"]).version == 7
    assert answer.headers["location"] == f"/tasks/{body['id']}"
    assert "idempotency-replayed" not in answer.headers
    row = await fresh_api.row(UUID(body["id"]))
    assert (row["type"], row["queue_set"], row["queue"], row["status"]) == (STRICT, "default", "default", "ENQUEUED")
    assert row["max_attempts"] == 3
    assert json.loads(row["payload"]) == {"to": "ada@example.com"}
    assert await fresh_api.events(row["id"]) == ["ENQUEUED"]
    await fresh_api.becomes_ready(1)
    assert (await fresh_api.client.get(answer.headers["location"])).json()["id"] == body["id"]


async def test_a_task_goes_to_the_queue_that_its_type_or_its_request_names(api: Running) -> None:
    assert (await api.enqueue(SMALL)).json()["queue"] == "low"
    assert (await api.enqueue(SMALL, queue="high")).json()["queue"] == "high"
    assert (await api.enqueue(SMALL, queue=None)).json()["queue"] == "low"


@pytest.mark.parametrize("payload", [{}, [], "text", 0, False, 1.5, {"": ""}, {"a": {"b": [None, 1]}}, {"ä": "\u2028"}])
async def test_any_json_but_null_is_a_payload(api: Running, payload: Any) -> None:
    answer = await api.client.post("/enqueue", json={"type": ANY, "payload": payload})
    assert answer.status_code == 201, answer.text
    assert json.loads((await api.row(UUID(answer.json()["id"])))["payload"]) == payload


@pytest.mark.parametrize("budget", [1, 20])
async def test_a_request_may_name_its_attempts(api: Running, budget: int) -> None:
    assert (await api.row(await api.enqueued(max_attempts=budget)))["max_attempts"] == budget


async def test_a_task_for_later_waits_and_is_not_published(fresh_api: Running) -> None:
    due = datetime.now(UTC) + timedelta(hours=1)
    id_ = await fresh_api.enqueued(run_at=due.isoformat())
    assert (await fresh_api.row(id_))["run_at"] == due
    assert await fresh_api.ready() == 0
    assert not await fresh_api.api.maintenance.relay.once()
    assert await fresh_api.ready() == 0


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2000-01-01T00:00:00Z", datetime(2000, 1, 1, tzinfo=UTC)),
        ("2026-03-29T02:30:00+01:00", datetime(2026, 3, 29, 1, 30, tzinfo=UTC)),
        ("1970-01-01T00:00:00+00:00", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
    ids=["past", "in a gap of daylight saving", "the first day of all"],
)
async def test_a_time_in_the_past_means_at_once(api: Running, text: str, meant: datetime) -> None:
    assert (await api.row(await api.enqueued(run_at=text)))["run_at"] == meant


async def test_a_type_that_is_unknown_is_refused(api: Running) -> None:
    before = await api.written()
    body = problem(await api.enqueue("nobody.declared.this"), 400, "UnknownType")
    assert "nobody.declared.this" in body["detail"]
    assert "apply" in body["detail"]
    assert await api.written() == before


async def test_a_type_that_is_not_active_is_refused(api: Running) -> None:
    before = await api.written()
    problem(await api.enqueue(OFF), 400, "InactiveType")
    assert await api.written() == before


async def test_a_type_that_is_switched_off_behind_the_cache_is_refused(fresh_api: Running) -> None:
    await fresh_api.sql.execute("UPDATE task_type SET active = false WHERE type = $1", ANY)
    problem(await fresh_api.enqueue(ANY), 400, "InactiveType")
    assert await fresh_api.written() == (0, 0)


async def test_a_type_that_is_deleted_while_its_task_is_stored_is_refused(fresh_api: Running) -> None:
    deletion = fresh_api.sql.transaction()
    await deletion.start()
    await fresh_api.sql.execute("DELETE FROM task_type WHERE type = $1", ANY)
    asked = asyncio.create_task(fresh_api.enqueue(ANY))
    await _somebody_waits(fresh_api)
    await deletion.commit()
    problem(await asked, 400, "InactiveType")
    assert await fresh_api.written() == (0, 0)


async def test_a_type_that_is_declared_just_now_is_known_at_once(fresh_api: Running) -> None:
    await fresh_api.sql.execute("INSERT INTO task_type (type, default_queue) VALUES ('fresh.v1', 'default')")
    assert (await fresh_api.enqueue("fresh.v1")).status_code == 201


async def test_a_queue_that_the_set_does_not_have_is_refused_and_the_allowed_ones_are_told(api: Running) -> None:
    before = await api.written()
    body = problem(await api.enqueue(queue="nope"), 400, "UnknownQueue")
    assert body["errors"][0]["path"] == "queue"
    assert "high, default, low" in body["detail"]
    assert await api.written() == before


async def test_a_type_whose_queue_set_is_not_declared_is_refused(api: Running) -> None:
    body = problem(await api.enqueue(STRAY), 400, "UnknownQueue")
    assert "nowhere" in body["detail"]


async def test_a_payload_that_breaks_its_schema_is_refused_without_being_shown(api: Running) -> None:
    before = await api.written()
    payload = {"to": "canary-in-the-value", "copies": "canary-in-copies", "canary": "canary-in-extra"}
    answer = await api.enqueue(STRICT, payload)
    body = problem(answer, 400, "InvalidPayload")
    assert {error["path"] for error in body["errors"]} >= {"payload/to", "payload/copies"}
    assert "canary-in" not in answer.text
    assert await api.written() == before


async def test_a_payload_of_the_types_size_passes_and_one_byte_more_does_not(api: Running) -> None:
    def payload(size: int) -> str:
        return "x" * (size - 2)  # the quotes count

    before = await api.written()
    body = problem(await api.enqueue(SMALL, payload(SMALL_BYTES + 1)), 413, "PayloadTooLarge")
    assert str(SMALL_BYTES) in body["detail"]
    assert SMALL in body["detail"]
    assert await api.written() == before
    assert (await api.enqueue(SMALL, payload(SMALL_BYTES))).status_code == 201


async def test_a_payload_is_measured_in_bytes_and_not_in_characters(api: Running) -> None:
    body = f'{{"type": "{SMALL}", "payload": "{"ä" * 60}"}}'.encode()
    problem(await api.client.post("/enqueue", content=body, headers=JSON), 413, "PayloadTooLarge")


def body_of(size: int) -> bytes:
    head, tail = f'{{"type": "{ANY}", "payload": "'.encode(), b'"}'
    return head + b"x" * (size - len(head) - len(tail)) + tail


async def test_a_body_of_the_largest_size_passes(api: Running) -> None:
    answer = await api.client.post("/enqueue", content=body_of(PAYLOAD_BYTES_MAX), headers=JSON)
    assert answer.status_code == 201


async def test_a_body_of_one_byte_more_is_refused(api: Running) -> None:
    before = await api.written()
    answer = await api.client.post("/enqueue", content=body_of(PAYLOAD_BYTES_MAX + 1), headers=JSON)
    assert str(PAYLOAD_BYTES_MAX) in problem(answer, 413, "PayloadTooLarge")["detail"]
    assert await api.written() == before


async def test_requests_that_arrive_together_share_a_statement_and_each_gets_its_own_task(fresh_api: Running) -> None:
    answers = await asyncio.gather(*(fresh_api.enqueue(ANY, {"number": number}) for number in range(120)))
    assert {answer.status_code for answer in answers} == {201}
    for number, answer in enumerate(answers):
        assert json.loads((await fresh_api.row(UUID(answer.json()["id"])))["payload"]) == {"number": number}
    assert await fresh_api.written() == (120, 120)
    assert await fresh_api.metric("dq_enqueue_batch_tasks_sum") == 120
    assert await fresh_api.metric("dq_enqueue_batch_tasks_count") < 60
    await fresh_api.becomes_ready(120)


async def test_a_row_that_postgres_cannot_hold_does_not_refuse_its_neighbours(fresh_api: Running) -> None:
    bad = f'{{"type": "{ANY}", "payload": 1e-99999}}'.encode()  # JSON says yes, numeric says no

    async def post_bad() -> Any:
        return await fresh_api.client.post("/enqueue", content=bad, headers=JSON)

    answers = await asyncio.gather(
        *(fresh_api.enqueue(ANY, {"number": number}) for number in range(20)),
        post_bad(),
        *(fresh_api.enqueue(ANY, {"number": number}) for number in range(20)),
    )
    refused = answers.pop(20)
    problem(refused, 400, "InvalidPayload")
    assert {answer.status_code for answer in answers} == {201}
    assert await fresh_api.written() == (40, 40)


async def _somebody_waits(api: Running) -> None:
    pid = api.sql.get_server_pid()
    async with asyncio.timeout(10):
        while not await api.sql.fetchval(
            "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE NOT granted AND $1 = ANY (pg_blocking_pids(pid)))", pid
        ):
            pass

"""Tenants that share an API: what one learns of another's tasks, and which queues a grant allows."""

from uuid import uuid4

import httpx2
import pytest

from tests.api.world import ANY, SMALL, problem
from tests.auth.world import Guarded


async def enqueue(guarded: Guarded, caller: str, type_: str, payload: object, key: str) -> httpx2.Response:
    body = {"type": type_, "payload": payload, "idempotency_key": key}
    return await guarded.ask(caller, "POST", "/enqueue", json=body)


async def test_a_conflict_names_no_task_to_a_caller_who_may_not_read_the_type(guarded: Guarded) -> None:
    key = str(uuid4())
    id_ = (await enqueue(guarded, "all", ANY, {"a": 1}, key)).json()["id"]
    detail = problem(await enqueue(guarded, "all", ANY, {}, key), 409, "IdempotencyConflict")["detail"]
    assert id_ in detail
    answer = await enqueue(guarded, "producer", ANY, {}, key)
    assert problem(answer, 409, "IdempotencyConflict")["detail"] == detail.replace(f"task {id_}", "a task")
    assert id_ not in str(answer.headers)


async def test_a_key_of_another_type_is_neither_seen_nor_taken(guarded: Guarded) -> None:
    key = str(uuid4())
    answers = [
        await enqueue(guarded, "all", ANY, {"a": 1}, key),
        await enqueue(guarded, "small", SMALL, {"a": 2}, key),
        await enqueue(guarded, "small", SMALL, {"a": 2}, key),
    ]
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert [answer.headers.get("idempotency-replayed") for answer in answers] == [None, None, "true"]
    assert answers[0].json()["id"] != answers[1].json()["id"] == answers[2].json()["id"]


@pytest.mark.parametrize(
    ("type_", "queue", "used", "allowed"),
    [
        (ANY, "low", "low", True),
        (ANY, "high", "high", True),
        (ANY, "default", "default", False),
        (ANY, None, "default", False),
        (SMALL, "default", "default", True),
        (SMALL, "high", "high", False),
        (SMALL, None, "low", False),
    ],
)
async def test_a_grant_allows_its_queues_and_no_other(
    guarded: Guarded, type_: str, queue: str | None, used: str, *, allowed: bool
) -> None:
    body = {"type": type_, "payload": {}} | ({"queue": queue} if queue else {})
    answer = await guarded.ask("queued", "POST", "/enqueue", json=body)
    if allowed:
        assert (answer.status_code, answer.json()["queue"]) == (201, used)
    else:
        assert f"`enqueue` on type {type_} in queue {used}" in problem(answer, 403, "Forbidden")["detail"]


async def test_a_grant_without_queues_allows_every_queue(guarded: Guarded) -> None:
    for queue in ("low", "default", "high"):
        body = {"type": ANY, "payload": {}, "queue": queue}
        assert (await guarded.ask("producer", "POST", "/enqueue", json=body)).status_code == 201

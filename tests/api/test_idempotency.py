"""The idempotency key: the same request again is the same task, and nothing is published twice."""

import asyncio
from uuid import UUID

import httpx2

from tests.api.world import ANY, SMALL, Running, problem


async def test_the_same_request_again_is_answered_with_the_first_task(fresh_api: Running) -> None:
    first = await fresh_api.enqueue(ANY, {"a": 1, "b": [2]}, idempotency_key="k")
    again = await fresh_api.client.post(
        "/enqueue",
        content=f'{{"idempotency_key":"k", "payload": {{"b":[2], "a":  1}}, "type":"{ANY}"}}',
        headers={"Content-Type": "application/json"},
    )
    assert again.status_code == 201
    assert again.json() == first.json()
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["location"] == first.headers["location"]
    assert await fresh_api.written() == (1, 1)
    await fresh_api.becomes_ready(1)
    assert await fresh_api.metric("dq_publish_total", result="ok") == 1


async def test_a_replay_tells_where_the_task_is_by_now(fresh_api: Running) -> None:
    id_ = await fresh_api.enqueued(SMALL, {}, idempotency_key="k", queue="high")
    await fresh_api.end(id_, "SUCCEEDED")
    again = await fresh_api.enqueue(SMALL, {}, idempotency_key="k", queue="low")
    assert again.json() == {"id": str(id_), "status": "SUCCEEDED", "queue": "high"}
    assert await fresh_api.events(id_) == ["ENQUEUED", "RUNNING", "SUCCEEDED"]
    assert await fresh_api.metric("dq_publish_total", result="ok") == 1


async def test_another_payload_under_the_same_key_is_a_conflict(fresh_api: Running) -> None:
    id_ = await fresh_api.enqueued(ANY, {"a": 1}, idempotency_key="k")
    for answer in (
        await fresh_api.enqueue(ANY, {"a": 2}, idempotency_key="k"),
        await fresh_api.enqueue(ANY, {}, idempotency_key="k"),
    ):
        assert str(id_) in problem(answer, 409, "IdempotencyConflict")["detail"]
    assert await fresh_api.written() == (1, 1)
    assert await fresh_api.metric("dq_publish_total", result="ok") == 1


async def test_each_type_has_keys_of_its_own(fresh_api: Running) -> None:
    first = await fresh_api.enqueued(ANY, {"a": 1}, idempotency_key="k")
    second = await fresh_api.enqueued(SMALL, {"a": 1}, idempotency_key="k")
    assert first != second
    for type_, id_ in ((ANY, first), (SMALL, second)):
        again = await fresh_api.enqueue(type_, {"a": 1}, idempotency_key="k")
        assert (again.json()["id"], again.headers["idempotency-replayed"]) == (str(id_), "true")


async def test_a_key_of_a_cancelled_task_is_answered_with_that_task(fresh_api: Running) -> None:
    id_ = await fresh_api.enqueued(ANY, {}, idempotency_key="k")
    await fresh_api.client.post(f"/tasks/{id_}/cancel")
    again = await fresh_api.enqueue(ANY, {}, idempotency_key="k")
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (201, str(id_), "CANCELLED")


async def test_no_key_of_a_client_suppresses_a_fire(fresh_api: Running) -> None:
    await fresh_api.sql.execute(
        "INSERT INTO schedule (type, name, cron, timezone, payload, next_fire_at)"
        " VALUES ($1, 'nightly', '0 0 1 1 *', 'UTC', '{}', now() - interval '1 minute')",
        ANY,
    )
    fires_at = await fresh_api.sql.fetchval("SELECT next_fire_at FROM schedule")
    guess = f"schedule:{ANY}:nightly:{fires_at:%Y-%m-%dT%H:%MZ}"
    await fresh_api.enqueued(ANY, {}, idempotency_key=guess)
    await fresh_api.api.maintenance.scheduler.once()
    assert await fresh_api.metric("dq_schedule_fired_total", type=ANY) == 1
    assert (await fresh_api.written())[0] == 2


async def test_keys_are_compared_letter_by_letter(fresh_api: Running) -> None:
    keys = ["k", "K", " k", "k ", "\u212a", "\uff4b"]
    assert len({await fresh_api.enqueued(idempotency_key=key) for key in keys}) == len(keys)


async def test_many_at_once_with_one_key_make_one_task(fresh_api: Running, replica: Running) -> None:
    answers = await asyncio.gather(
        *((fresh_api, replica)[number % 2].enqueue(ANY, {"a": 1}, idempotency_key="k") for number in range(60))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert sum("idempotency-replayed" not in answer.headers for answer in answers) == 1
    assert await fresh_api.written() == (1, 1)
    await fresh_api.becomes_ready(1)


async def test_many_at_once_with_one_key_and_two_payloads_agree_on_one(fresh_api: Running, replica: Running) -> None:
    async def post(number: int) -> httpx2.Response:
        return await (fresh_api, replica)[number // 2 % 2].enqueue(ANY, {"a": number % 2}, idempotency_key="k")

    answers = await asyncio.gather(*(post(number) for number in range(60)))
    assert {answer.status_code for answer in answers} == {201, 409}
    (id_,) = {answer.json()["id"] for answer in answers if answer.status_code == 201}
    won = {number % 2 for number, answer in enumerate(answers) if answer.status_code == 201}
    assert len(won) == 1
    assert sum(answer.status_code == 201 for answer in answers) == 30
    assert await fresh_api.events(UUID(id_)) == ["ENQUEUED"]
    await fresh_api.becomes_ready(1)

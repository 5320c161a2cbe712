"""Looking at tasks and cancelling them."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.api.world import ANY, SMALL, STRICT, Running, problem

STATUSES = ("ENQUEUED", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED")


async def in_status(api: Running, status: str) -> UUID:
    """A task in that status."""
    id_ = await api.enqueued()
    match status:
        case "RUNNING":
            await api.run(id_)
        case "SUCCEEDED" | "FAILED" | "CANCELLED":
            await api.end(id_, status, error="boom" if status == "FAILED" else None)
    return id_


async def test_a_task_is_shown_with_all_that_a_person_may_ask(api: Running) -> None:
    id_ = await api.enqueued(STRICT, {"to": "ada@example.com"}, queue="high", idempotency_key=str(uuid4()))
    answer = await api.client.get(f"/tasks/{id_}")
    assert answer.status_code == 200
    shown = answer.json()
    row = await api.row(id_)
    assert {name: shown[name] for name in ("id", "type", "queue_set", "queue", "status")} == {
        "id": str(id_),
        "type": STRICT,
        "queue_set": "default",
        "queue": "high",
        "status": "ENQUEUED",
    }
    assert (shown["attempts"], shown["max_attempts"], shown["crashes"], shown["redrives"]) == (0, 3, 0, 0)
    for name in ("last_error", "result", "cancel_requested_at", "dead_lettered_at"):
        assert shown[name] is None
    assert shown["created_at"] == row["created_at"].isoformat().replace("+00:00", "Z")
    assert "payload" not in shown
    assert "ada@example.com" not in answer.text


@pytest.mark.parametrize("result", ["null", '{"sent": [1, 2.50]}', '"text"', "123456789012345678901234567890"])
async def test_a_result_is_shown_as_the_handler_returned_it(api: Running, result: str) -> None:
    id_ = await in_status(api, "SUCCEEDED")
    await api.sql.execute("UPDATE tasks SET result = $2::text::jsonb WHERE id = $1", id_, result)
    assert f'"result":{result}' in (await api.client.get(f"/tasks/{id_}")).text


async def test_a_failed_task_shows_its_error(api: Running) -> None:
    shown = (await api.client.get(f"/tasks/{await in_status(api, 'FAILED')}")).json()
    assert (shown["status"], shown["attempts"], shown["last_error"]) == ("FAILED", 1, "boom")


async def test_the_history_is_shown_oldest_first(api: Running) -> None:
    id_ = await in_status(api, "FAILED")
    events = (await api.client.get(f"/tasks/{id_}/events")).json()["events"]
    assert [event["event"] for event in events] == ["ENQUEUED", "RUNNING", "FAILED"]
    assert [event["attempt"] for event in events] == [0, 1, 1]
    assert [event["note"] for event in events] == [None, None, "boom"]
    worker = str((await api.row(id_))["worker_id"])
    assert [event["worker_id"] for event in events] == [None, worker, worker]
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


async def test_an_id_in_capitals_is_the_same_id(api: Running) -> None:
    id_ = await api.enqueued()
    assert (await api.client.get(f"/tasks/{str(id_).upper()}")).json()["id"] == str(id_)


@pytest.mark.parametrize("method", ["GET", "EVENTS", "CANCEL"])
@pytest.mark.parametrize(
    "id_",
    [
        "00000000-0000-7000-8000-000000000000",
        "nonsense",
        "%00",
        "%2e%2e",
        "{00000000-0000-7000-8000-000000000000}",
        "urn:uuid:00000000-0000-7000-8000-000000000000",
        "00000000000070008000000000000000",
        "'%20OR%201=1--",
        "1" * 5_000,
    ],
    ids=["nobody's", "no id", "NUL", "dots", "braces", "urn", "no dashes", "SQL", "long"],
)
async def test_an_id_that_is_nobodys_is_not_found(api: Running, method: str, id_: str) -> None:
    match method:
        case "GET":
            answer = await api.client.get(f"/tasks/{id_}")
        case "EVENTS":
            answer = await api.client.get(f"/tasks/{id_}/events")
        case _:
            answer = await api.client.post(f"/tasks/{id_}/cancel")
    assert len(problem(answer, 404, "NotFound")["detail"]) < 200


async def page(api: Running, **query: Any) -> tuple[list[str], str | None]:
    answer = await api.client.get("/tasks", params=query)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [task["id"] for task in body["tasks"]], body["next_cursor"]


async def test_pages_show_every_task_once_and_the_newest_first(fresh_api: Running) -> None:
    ids = [str(await fresh_api.enqueued()) for _ in range(7)]
    ids.reverse()
    first, cursor = await page(fresh_api, limit=3)
    assert first == ids[:3]
    assert cursor == ids[2]
    await fresh_api.enqueued()  # what is new does not move the pages that follow
    second, cursor = await page(fresh_api, limit=3, cursor=cursor)
    assert second == ids[3:6]
    third, cursor = await page(fresh_api, limit=3, cursor=cursor)
    assert (third, cursor) == (ids[6:], None)
    assert len((await page(fresh_api))[0]) == 8


async def test_a_page_that_ends_with_the_last_task_is_followed_by_an_empty_one(fresh_api: Running) -> None:
    ids = [str(await fresh_api.enqueued()) for _ in range(2)]
    _, cursor = await page(fresh_api, limit=2)
    assert cursor == ids[0]
    assert await page(fresh_api, limit=2, cursor=cursor) == ([], None)


async def test_pages_can_be_narrowed(fresh_api: Running) -> None:
    by_status = {status: str(await in_status(fresh_api, status)) for status in STATUSES}
    low = str(await fresh_api.enqueued(SMALL))
    for status in STATUSES[1:]:
        assert await page(fresh_api, status=status) == ([by_status[status]], None)
    assert (await page(fresh_api, status="ENQUEUED"))[0] == [low, by_status["ENQUEUED"]]
    assert await page(fresh_api, status="DLQ") == ([], None)
    assert (await page(fresh_api, type=SMALL))[0] == [low]
    assert (await page(fresh_api, queue="low"))[0] == [low]
    assert (await page(fresh_api, type=ANY, queue="low"))[0] == []
    assert (await page(fresh_api, queue="' OR 1=1 --"))[0] == []
    assert len((await page(fresh_api, limit=200))[0]) == 6


async def test_a_page_shows_neither_payloads_nor_results(fresh_api: Running) -> None:
    id_ = await fresh_api.enqueued(ANY, {"secret": "canary"})
    await fresh_api.end(id_, "SUCCEEDED")
    (shown,) = (await fresh_api.client.get("/tasks")).json()["tasks"]
    assert set(shown) == {
        *("id", "type", "queue", "status", "attempts", "max_attempts", "last_error", "created_at", "updated_at")
    }


async def test_what_waits_is_cancelled_and_never_runs(api: Running) -> None:
    id_ = await api.enqueued()
    answer = await api.client.post(f"/tasks/{id_}/cancel")
    assert (answer.status_code, answer.json()) == (200, {"id": str(id_), "status": "CANCELLED"})
    assert await api.events(id_) == ["ENQUEUED", "CANCELLED"]
    with pytest.raises(AssertionError, match="not claimed"):
        await api.run(id_)


async def test_what_runs_is_asked_to_stop_as_often_as_one_likes(api: Running) -> None:
    id_ = await api.enqueued()
    worker = await api.run(id_)
    for _ in range(2):
        answer = await api.client.post(f"/tasks/{id_}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"id": str(id_), "status": "RUNNING"})
    assert (await api.client.get(f"/tasks/{id_}")).json()["cancel_requested_at"] is not None
    assert await api.sql.fetchval("SELECT cancel_ids FROM dtq_renew($1, 60)", worker) == [id_]


@pytest.mark.parametrize("status", ["SUCCEEDED", "FAILED", "CANCELLED"])
async def test_what_has_ended_cannot_be_cancelled(api: Running, status: str) -> None:
    id_ = await in_status(api, status)
    before = await api.events(id_)
    assert status in problem(await api.client.post(f"/tasks/{id_}/cancel"), 409, "AlreadyFinished")["detail"]
    assert await api.events(id_) == before
    assert (await api.row(id_))["status"] == status

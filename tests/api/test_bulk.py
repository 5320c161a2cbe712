"""`POST /enqueue/bulk`: each item has its own result, or all items are stored or none."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from dtq.domain.limits import BULK_BYTES_MAX, PAYLOAD_BYTES_MAX
from dtq_api.bulk import ITEMS_MAX, PER_CALLER
from tests.api.world import ANY, OFF, SMALL, STRICT, Running, problem
from tests.support.waiting import eventually

PATH = "/enqueue/bulk"


def item(type_: str = ANY, payload: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": type_, "payload": {} if payload is None else payload} | fields


async def test_each_item_gets_the_answer_that_it_would_get_alone(fresh_api: Running) -> None:
    key = str(uuid4())
    items = [
        item(),
        item("no.such.type"),
        item(STRICT, {"to": 1}),
        item(SMALL, queue="high", idempotency_key=key),
        item(OFF),
        item(SMALL, queue="high", idempotency_key=key),
        item(SMALL, {"other": 1}, idempotency_key=key),
        {"type": ANY},
        [],
    ]
    answer = await fresh_api.client.post(PATH, json=items)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    codes = [result.get("problem", {}).get("type", "").rpartition("/")[2] for result in body["results"]]
    assert codes == [
        *("", "UnknownType", "InvalidPayload", "", "InactiveType", "", "IdempotencyConflict"),
        *("InvalidBody", "InvalidBody"),
    ]
    first, other, again = (body["results"][at] for at in (0, 3, 5))
    assert (first["status"], first["queue"], other["queue"]) == ("ENQUEUED", "default", "high")
    assert {"replayed"} == again.keys() - other.keys()
    assert again["id"] == other["id"]
    assert body["results"][2]["problem"]["errors"][0]["path"] == "payload/to"
    assert (body["accepted"], body["refused"]) == (3, 6)
    assert await fresh_api.events(UUID(first["id"])) == ["ENQUEUED"]
    await fresh_api.becomes_ready(1)
    await fresh_api.becomes_ready(1, "high")
    assert await fresh_api.metric("dq_enqueue_total", type=SMALL, queue="high", status="ok") == 2


async def test_a_thousand_lines_are_a_thousand_tasks(fresh_api: Running) -> None:
    lines = "\n".join(json.dumps(item(payload={"n": n})) for n in range(ITEMS_MAX)) + "\n\n"
    answer = await fresh_api.client.post(PATH, content=lines, headers={"Content-Type": "application/x-ndjson"})
    assert answer.json()["accepted"] == ITEMS_MAX, answer.text
    assert len({result["id"] for result in answer.json()["results"]}) == ITEMS_MAX
    row = await fresh_api.row(UUID(answer.json()["results"][7]["id"]))
    assert json.loads(row["payload"]) == {"n": 7}
    await fresh_api.becomes_ready(ITEMS_MAX)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"[]", "has 0 items: send 1..1000"),
        (json.dumps([item()] * (ITEMS_MAX + 1)).encode(), "has 1001 items"),
        (b"{}", "not a JSON array of tasks"),
        (b"[{}", "not a JSON array of tasks"),
        (b"[" * 100_000, "not a JSON array of tasks"),
        (b"", "not a JSON array of tasks"),
    ],
)
async def test_a_body_that_is_no_list_of_tasks_is_refused(api: Running, text: bytes, says: str) -> None:
    before = await api.written()
    answer = await api.client.post(PATH, content=text, headers={"Content-Type": "application/json"})
    assert says in problem(answer, 400, "InvalidBody")["detail"]
    assert await api.written() == before


async def test_a_body_that_is_too_large_or_of_another_kind_is_refused(api: Running) -> None:
    headers = {"Content-Type": "application/json"}
    problem(await api.client.post(PATH, content=b" " * (BULK_BYTES_MAX + 1), headers=headers), 413, "PayloadTooLarge")
    answer = await api.client.post(PATH, content=b"[]", headers={"Content-Type": "text/plain"})
    detail = problem(answer, 415, "UnsupportedMediaType")["detail"]
    assert detail == "send Content-Type: application/json or application/x-ndjson"
    assert (
        "is not a parameter"
        in problem(await api.client.post(f"{PATH}?atomic=1", json=[]), 400, "InvalidQuery")["detail"]
    )
    answer = await api.client.post(PATH, json=[item(payload="x" * (PAYLOAD_BYTES_MAX + 1)), item()])
    assert [("problem" in result) for result in answer.json()["results"]] == [True, False]


async def test_all_or_none_stores_all(fresh_api: Running) -> None:
    key = str(uuid4())
    known = (await fresh_api.enqueue(ANY, {}, idempotency_key=key)).json()["id"]
    items = [item(), item(idempotency_key=key), item(SMALL)]
    answer = await fresh_api.client.post(f"{PATH}?all_or_none=true", json=items)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 3), answer.text
    assert answer.json()["results"][1] == {"id": known, "status": "ENQUEUED", "queue": "default", "replayed": True}
    await fresh_api.api.maintenance.relay.once()
    await fresh_api.becomes_ready(2)
    await fresh_api.becomes_ready(1, "low")


async def test_all_or_none_stores_nothing_if_an_item_is_refused(api: Running) -> None:
    before = await api.written()
    items = [item(), item(STRICT, {"to": 1}), item("no.such.type")]
    refused = problem(await api.client.post(f"{PATH}?all_or_none=true", json=items), 400, "BulkRefused")
    assert refused["detail"] == "2 items are refused, and nothing was stored: the first is item 1"
    assert [mistake["path"] for mistake in refused["errors"]] == ["[1].payload/to", "[2]"]
    assert await api.written() == before


async def test_all_or_none_stores_nothing_if_a_key_belongs_to_another_payload(api: Running) -> None:
    key = str(uuid4())
    await api.enqueue(ANY, {"first": 1}, idempotency_key=key)
    before = await api.written()
    items = [item(), item(payload={"second": 1}, idempotency_key=key)]
    refused = problem(await api.client.post(f"{PATH}?all_or_none=true", json=items), 400, "BulkRefused")
    assert refused["errors"][0]["path"] == "[1]"
    assert await api.written() == before


async def test_requests_beyond_a_caller_s_share_are_told_to_come_back(api: Running) -> None:
    body = json.dumps([item()])
    begun, go = asyncio.Semaphore(0), asyncio.Event()

    async def slowly() -> httpx2.Response:
        async def parts() -> Any:
            yield body[:5].encode()
            begun.release()
            await go.wait()
            yield body[5:].encode()

        return await api.client.post(PATH, content=parts(), headers={"Content-Type": "application/json"})

    async with asyncio.TaskGroup() as tasks:
        slow = [tasks.create_task(slowly()) for _ in range(PER_CALLER)]
        for _ in slow:
            await begun.acquire()
        answer = await eventually(lambda: _refused(api, body), "the slow requests are under way")
        detail = problem(answer, 429, "TooManyRequests")["detail"]
        assert f"{PER_CALLER} bulk requests of 127.0.0.1 are under way" in detail
        assert answer.headers["retry-after"] == "1"
        go.set()
    assert all(request.result().json()["accepted"] == 1 for request in slow)


async def _refused(api: Running, body: str) -> httpx2.Response | None:
    answer = await api.client.post(PATH, content=body, headers={"Content-Type": "application/json"})
    return None if answer.is_success else answer

"""Bad input over HTTP: each one gets its answer, none a 500, and nothing is written.

Framing that needs the bytes on a socket is in `test_framing.py`.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from dtq.domain.limits import PAGE_MAX, REDRIVE_MAX
from dtq_api.bodies import REDRIVE_IDS_MAX
from tests.api.world import ANY, DEEP, STRICT, Running, problem

JSON = "application/json"


def enqueue_body(payload: str) -> bytes:
    """A body whose payload is that text."""
    return f'{{"type": "{ANY}", "payload": {payload}}}'.encode()


async def post(api: Running, content: bytes, path: str = "/enqueue", **headers: str) -> Any:
    given = {"Content-Type": JSON} | {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.client.post(path, content=content, headers=given)


async def refused(api: Running, answer: Any, status: int, code: str, before: tuple[int, int]) -> dict[str, Any]:
    body = problem(answer, status, code)
    assert await api.written() == before
    return body


NOT_JSON = {
    "nothing": b"",
    "blanks": b"  \n",
    "no JSON": b"type=email.send.v1&payload=1",
    "half of it": b'{"type": "sample.any.v1", "payload": {',
    "more than one": b'{"type": "sample.any.v1", "payload": {}} {}',
    "a comma too many": b'{"type": "sample.any.v1", "payload": [1,]}',
    "single quotes": b"{'type': 'sample.any.v1', 'payload': {}}",
    "a comment": b'{"type": "sample.any.v1", /* x */ "payload": {}}',
    "a byte order mark": b'\xef\xbb\xbf{"type": "sample.any.v1", "payload": {}}',
    "UTF-16": '{"type": "sample.any.v1", "payload": {}}'.encode("utf-16"),
    "invalid UTF-8 in a field": b'{"type": "sample\xff", "payload": {}}',
    "invalid UTF-8 in the payload": b'{"type": "sample.any.v1", "payload": "\xff"}',
    "overlong UTF-8": b'{"type": "sample.any.v1", "payload": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"type": "sample.any.v1", "payload": "\xed\xa0\x80"}',
    "a zero byte behind": b'{"type": "sample.any.v1", "payload": {}}\x00',
    "a control character in a string": b'{"type": "sample.any.v1", "payload": "\x01"}',
    "an array": b"[]",
    "a scalar": b"42",
    "null": b"null",
    "100,000 open brackets": b"[" * 100_000,
    "100,000 levels in the payload": enqueue_body("[" * 100_000 + "]" * 100_000),
    "100,000 levels in another field": b'{"type": ' + b'{"a":' * 100_000,
    "NaN": enqueue_body("NaN"),
    "Infinity": enqueue_body("-Infinity"),
    "a number beyond all floats": enqueue_body("1e400"),
    "a number with a leading zero": enqueue_body("01"),
    "a lone surrogate": enqueue_body(r'"\ud800"'),
    "a lone low surrogate": enqueue_body(r'"\udc00"'),
    "an escape that is none": enqueue_body(r'"\x41"'),
}


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON.keys())
@pytest.mark.parametrize("path", ["/enqueue", "/dlq/redrive"])
async def test_a_body_that_is_no_json_object_is_refused(api: Running, path: str, content: bytes) -> None:
    before = await api.written()
    body = await refused(api, await post(api, content, path), 400, "InvalidBody", before)
    assert len(body["detail"]) < 400


UNSTORABLE = {
    "NUL in a string": (enqueue_body(r'"\u0000"'), "InvalidBody"),
    "NUL in a key": (enqueue_body(r'{"\u0000": 1}'), "InvalidBody"),
    "NUL behind a backslash": (enqueue_body(r'"\\\u0000"'), "InvalidBody"),
    "a number of a thousand digits": (enqueue_body("1" * 1_000), "InvalidBody"),
    "a number of 100,000 digits": (enqueue_body("1" * 100_000), "InvalidBody"),
    "a fraction of a thousand digits": (enqueue_body("0." + "1" * 1_000), "InvalidBody"),
    "a number nearer to 0 than Postgres knows": (enqueue_body("1e-99999"), "InvalidPayload"),
    "null": (enqueue_body("null"), "InvalidBody"),
}


@pytest.mark.parametrize(("content", "code"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_json_that_cannot_be_stored_is_refused(api: Running, content: bytes, code: str) -> None:
    before = await api.written()
    await refused(api, await post(api, content), 400, code, before)


STORED = {
    "a backslash before u0000": (r'"\\u0000"', r"\u0000"),
    "an empty key": ('{"": 1}', {"": 1}),
    "a pair of surrogates": (r'"\ud83d\ude00"', "\U0001f600"),
    "30 digits": ("123456789012345678901234567890", 123456789012345678901234567890),
    "a fraction as it was written": ("0.10", 0.1),
    "of two equal keys the last": ('{"a": 1, "a": 2}', {"a": 2}),
    "500 levels": ("[" * 500 + "]" * 500, None),
    "100,000 keys": (json.dumps({f"{number:x}": 0 for number in range(100_000)}, separators=(",", ":")), None),
    "a non-character": (r'"\uffff"', "\uffff"),
    "false": ("false", False),
    "an empty string": ('""', ""),
}


@pytest.mark.parametrize(("payload", "stored"), STORED.values(), ids=STORED.keys())
async def test_unusual_json_is_stored_as_it_is(api: Running, payload: str, stored: Any) -> None:
    answer = await post(api, enqueue_body(payload))
    assert answer.status_code == 201, answer.text
    row = await api.row(answer.json()["id"])
    assert json.loads(row["payload"]) == (json.loads(payload) if stored is None else stored)


async def test_of_two_equal_fields_of_the_body_the_last_counts(api: Running) -> None:
    answer = await post(api, f'{{"type": "nobody.v1", "payload": 1, "type": "{ANY}", "payload": 2}}'.encode())
    assert (await api.row(answer.json()["id"]))["payload"] == "2"


@pytest.mark.parametrize("levels", [100, 400, 900])
async def test_a_deep_payload_of_a_recursive_schema_is_answered(api: Running, levels: int) -> None:
    payload = '{"a":' * levels + "1" + "}" * levels
    answer = await post(api, f'{{"type": "{DEEP}", "payload": {payload}}}'.encode())
    assert answer.status_code in (201, 400), answer.text


MEDIA_TYPES = {
    "none": {},
    "an empty one": {"Content-Type": ""},
    "plain text": {"Content-Type": "text/plain"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "something like it": {"Content-Type": "application/jsonp"},
    "two of them": {"Content-Type": "text/plain, application/json"},
    "gzip": {"Content-Type": JSON, "Content-Encoding": "gzip"},
    "an encoding of strangers": {"Content-Type": JSON, "Content-Encoding": "identity, br"},
}


@pytest.mark.parametrize("headers", MEDIA_TYPES.values(), ids=MEDIA_TYPES.keys())
@pytest.mark.parametrize("path", ["/enqueue", "/dlq/redrive"])
async def test_a_body_that_is_not_plain_json_is_refused(api: Running, path: str, headers: dict[str, str]) -> None:
    before = await api.written()
    answer = await api.client.post(path, content=enqueue_body("{}"), headers=headers)
    await refused(api, answer, 415, "UnsupportedMediaType", before)


@pytest.mark.parametrize(
    "media_type", ["application/json; charset=utf-8", "Application/JSON", " application/json ;x=y"]
)
async def test_json_may_be_named_in_its_usual_ways(api: Running, media_type: str) -> None:
    answer = await post(api, enqueue_body("{}"), Content_Type=media_type, Content_Encoding="Identity")
    assert answer.status_code == 201, answer.text


NOW = datetime.now(UTC)
FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown field": ({"color": "red"}, "color"),
    **{
        f"a column: {name}": ({name: value}, name)
        for name, value in {
            "id": str(uuid4()),
            "status": "SUCCEEDED",
            "attempts": 3,
            "result": {},
            "worker_id": str(uuid4()),
            "created_at": NOW.isoformat(),
            "queue_set": "other",
            "needs_publish": False,
            "redrives": 1,
            "last_error": "x",
        }.items()
    },
    "priority": ({"priority": 256}, "priority"),
    "headers": ({"headers": {"x": "y" * 10_000}}, "headers"),
    **{
        f"type: {what}": ({"type": value}, "type")
        for what, value in {
            "empty": "",
            "129 characters": "a." + "b" * 127,
            "very long": "a." + "b" * 100_000,
            "one word": "email",
            "upper case": "Email.send.v1",
            "a look-alike": "еmail.send.v1",  # noqa: RUF001 - the first letter is Cyrillic
            "a slash": "a/b.v1",
            "a star": "*.v1",
            "a hash": "#.v1",
            "SQL": "a.b'; DROP TABLE tasks;--",
            "a newline": "email.send.v1\n",
            "NUL": "email.send.v1\0",
            "dots": "a..b",
            "a dash at the end": "a.b-",
            "a number": 5,
            "null": None,
            "an array": ["email.send.v1"],
        }.items()
    },
    **{
        f"queue: {what}": ({"queue": value}, "queue")
        for what, value in {"a number": 5, "an array": ["default"], "an object": {}}.items()
    },
    **{
        f"idempotency_key: {what}": ({"idempotency_key": value}, "idempotency_key")
        for what, value in {
            "empty": "",
            "256 characters": "k" * 256,
            "a kilobyte": "k" * 1024,
            "a newline": "k\n",
            "NUL": "k\0",
            "an escape": "k\x1b[31m",
            "a C1 control": "k\x85",
            "a number": 7,
        }.items()
    },
    **{
        f"run_at: {what}": ({"run_at": value}, "run_at")
        for what, value in {
            "a hundred years ahead": (NOW + timedelta(days=36_525)).isoformat(),
            "a year and a day ahead": (NOW + timedelta(days=366)).isoformat(),
            "the last of all days": "9999-12-31T23:59:59Z",
            "beyond the last of all days": "9999-12-31T23:59:59-14:00",
            "the first of all days": "0001-01-01T00:00:00Z",
            "before the first of all days": "0001-01-01T00:00:00+14:00",
            "before 1970": "1969-12-31T23:59:59Z",
            "no zone": "2026-11-24T08:30:00",
            "a leap second": "2016-12-31T23:59:60Z",
            "hour 24": "2026-11-24T24:00:00Z",
            "the 30th of February": "2026-02-30T00:00:00Z",
            "a date": "2026-11-24",
            "a week": "2026-W01-1T00:00:00Z",
            "seconds since 1970": 1_764_000_000,
            "tomorrow": "tomorrow",
            "empty": "",
        }.items()
    },
    **{
        f"max_attempts: {what}": ({"max_attempts": value}, "max_attempts")
        for what, value in {
            "0": 0,
            "-1": -1,
            "21": 21,
            "a billion": 10**9,
            "beyond 64 bits": 10**30,
            "a fraction": 1.5,
            "text": "3",
            "true": True,
        }.items()
    },
}


@pytest.mark.parametrize(("fields", "path"), FIELDS.values(), ids=FIELDS.keys())
async def test_a_field_that_is_wrong_is_refused_and_named(api: Running, fields: dict[str, Any], path: str) -> None:
    before = await api.written()
    content = json.dumps({"type": ANY, "payload": {}} | fields, ensure_ascii=False).encode()
    body = await refused(api, await post(api, content), 400, "InvalidBody", before)
    assert [error["path"] for error in body["errors"]] == [path]
    assert len(body["detail"]) < 300


@pytest.mark.parametrize("missing", ["type", "payload"])
async def test_a_field_that_is_missing_is_named(api: Running, missing: str) -> None:
    given = {"type": ANY, "payload": {}}
    del given[missing]
    before = await api.written()
    body = await refused(api, await post(api, json.dumps(given).encode()), 400, "InvalidBody", before)
    assert [error["path"] for error in body["errors"]] == [missing]
    assert f"{missing}" in body["detail"]


async def test_every_mistake_is_told_at_once(api: Running) -> None:
    wrong = {"type": "X", "payload": 1, "max_attempts": 0, "idempotency_key": "", "run_at": "soon"}
    body = problem(await post(api, json.dumps(wrong).encode()), 400, "InvalidBody")
    assert [error["path"] for error in body["errors"]] == ["type", "max_attempts", "idempotency_key", "run_at"]


@pytest.mark.parametrize("key", ["k", "k" * 255, "ключ", "🔑" * 255, "a b/c?d#e%f", "' OR 1=1 --", "\u2028"])
async def test_a_key_may_hold_any_character_that_can_be_seen(api: Running, key: str) -> None:
    id_ = await api.enqueued(idempotency_key=key)
    assert (await api.row(id_))["idempotency_key"] == key


@pytest.mark.parametrize(
    "queue", ["nope", "DEFAULT", "default\n", "*", "#", "a/b", "x" * 100_000, "\0", "default ", "é"]
)
async def test_a_queue_of_any_spelling_is_refused_when_it_is_not_declared(api: Running, queue: str) -> None:
    before = await api.written()
    body = await refused(api, await api.enqueue(queue=queue), 400, "UnknownQueue", before)
    assert len(body["detail"]) < 600


def queries() -> Iterator[tuple[str, str]]:
    for value in ("0", "-1", str(PAGE_MAX + 1), "1000000000", "1" * 5_000, "ten", "1.5", "", "٣", " 5", "+5", "0x10"):
        yield "limit", value
    for value in ("nonsense", "", "00000000", "' OR 1=1 --", "\0", "0193a1b2c3d47e5f8a6b7c8d9e0f1a2b", "x" * 10_000):
        yield "cursor", value
    for value in ("LOST", "enqueued", "", "ENQUEUED,RUNNING", "\0"):
        yield "status", value
    for value in ("X", "", "(a+)+$", "*", "a." + "b" * 127, "\0", "%"):
        yield "type", value
    for value in ("\0", "a\n", "\x1b[31m"):
        yield "queue", value
    for name in ("page", "offset", "LIMIT", "filter", "id", "order"):
        yield name, "1"


@pytest.mark.parametrize(("name", "value"), list(queries()))
async def test_a_query_that_is_wrong_is_refused_and_named(api: Running, name: str, value: str) -> None:
    body = problem(await api.client.get("/tasks", params={name: value}), 400, "InvalidQuery")
    assert [error["path"] for error in body["errors"]] == [name]
    assert len(body["detail"]) < 300


async def test_a_cursor_of_somebody_elses_is_a_place_in_the_order_and_shows_nothing_more(api: Running) -> None:
    id_ = str(await api.enqueued())
    for cursor, shown in (
        ("ffffffff-ffff-ffff-ffff-ffffffffffff", True),
        ("00000000-0000-0000-0000-000000000000", False),
    ):
        answer = await api.client.get("/tasks", params={"cursor": cursor})
        assert answer.status_code == 200
        assert (id_ in answer.text) is shown


async def test_html_is_not_served_to_those_who_ask_for_it(api: Running) -> None:
    for path in ("/", "/tasks", "/healthz", "/openapi.json"):
        answer = await api.client.get(path, headers={"Accept": "text/html"})
        assert (answer.status_code, answer.headers["content-type"]) == (200, JSON)
    answer = await api.client.get("/tasks?limit=0", headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "application/problem+json"


REDRIVES: dict[str, tuple[Any, str]] = {
    "an unknown field": ({"statuses": ["FAILED"]}, "statuses"),
    "no ids": ({"ids": []}, "ids"),
    "too many ids": ({"ids": [str(uuid4()) for _ in range(REDRIVE_IDS_MAX + 1)]}, "ids"),
    "ids that are none": ({"ids": ["nonsense"]}, "ids[0]"),
    "ids that are no list": ({"ids": str(uuid4())}, "ids"),
    "ids and a type": ({"ids": [str(uuid4())], "type": ANY}, "ids"),
    "ids and a limit": ({"ids": [str(uuid4())], "limit": 5}, "ids"),
    "a limit of 0": ({"all": True, "limit": 0}, "limit"),
    "a limit below 0": ({"all": True, "limit": -1}, "limit"),
    "a limit beyond the cap": ({"all": True, "limit": REDRIVE_MAX + 1}, "limit"),
    "a limit of text": ({"limit": "5"}, "limit"),
    "a type that is none": ({"type": "(a+)+$"}, "type"),
    "a type with NUL": ({"type": "a.b\0"}, "type"),
    "a queue with NUL": ({"queue": "\0"}, "queue"),
    "a time without a zone": ({"failed_before": "2026-11-24T08:30:00"}, "failed_before"),
    "a time that is none": ({"failed_before": "yesterday"}, "failed_before"),
    "a time beyond all": ({"failed_before": "9999-12-31T23:59:59-14:00"}, "failed_before"),
    "a dry run of text": ({"dry_run": "yes"}, "dry_run"),
}


@pytest.mark.parametrize(("body", "path"), REDRIVES.values(), ids=REDRIVES.keys())
async def test_a_redrive_that_is_wrong_is_refused_and_sends_nothing(api: Running, body: Any, path: str) -> None:
    id_ = await api.failed(STRICT)
    before = await api.written()
    told = await refused(api, await post(api, json.dumps(body).encode(), "/dlq/redrive"), 400, "InvalidBody", before)
    assert [error["path"] for error in told["errors"]] == [path]
    assert (await api.row(id_))["status"] == "FAILED"

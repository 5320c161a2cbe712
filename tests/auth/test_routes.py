"""Every route x every kind of credential. A route without a row here fails the suite."""

import re
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import pytest
from starlette.routing import Route

from tests.api.world import ANY, SMALL, problem
from tests.auth.world import Guarded

OPEN = frozenset({"/healthz", "/livez", "/readyz"})


@dataclass(frozen=True, kw_only=True)
class Row:
    """What a route answers.

    Attributes:
        good: to a caller with every right on every type.
        other: to a caller with every right, but on another type than the task's.
        idle: to a known caller without any right.
    """

    method: str
    path: str
    good: int
    other: int
    idle: int
    body: dict[str, Any] | list[Any] | None = None
    needs: str | None = None
    asks: dict[str, str] = field(default_factory=dict)


ROWS = [
    Row(method="GET", path="/", good=200, other=200, idle=200),
    Row(method="GET", path="/openapi.json", good=200, other=200, idle=200),
    Row(method="GET", path="/healthz", good=200, other=200, idle=200),
    Row(method="GET", path="/readyz", good=200, other=200, idle=200),
    Row(method="GET", path="/livez", good=200, other=200, idle=200),
    Row(method="GET", path="/metrics", good=200, other=200, idle=403, needs="metrics"),
    Row(
        method="POST", path="/enqueue", body={"type": ANY, "payload": {}}, good=201, other=403, idle=403,
        needs="enqueue",
    ),
    Row(
        method="POST", path="/enqueue/bulk", body=[{"type": ANY, "payload": {}}], good=200, other=200, idle=403,
        needs="enqueue",
    ),
    Row(method="GET", path="/tasks", asks={"type": ANY}, good=200, other=403, idle=403, needs="read"),
    Row(method="GET", path="/tasks/{id}", good=200, other=404, idle=404),
    Row(method="GET", path="/tasks/{id}/payload", good=200, other=404, idle=404),
    Row(method="GET", path="/tasks/{id}/events", good=200, other=404, idle=404),
    Row(method="POST", path="/tasks/{id}/cancel", good=200, other=404, idle=404),
    Row(method="GET", path="/queues/{queue}/scaling", good=200, other=200, idle=403, needs="scale-read"),
    Row(method="POST", path="/dlq/redrive", body={"type": ANY}, good=200, other=403, idle=403, needs="redrive"),
]  # fmt: skip
EACH = pytest.mark.parametrize("row", ROWS, ids=[f"{row.method} {row.path}" for row in ROWS])
NOT_GOOD = {
    "none": {},
    "no token": {"Authorization": "Bearer "},
    "two words": {"Authorization": "Bearer a b"},
    "basic": {"Authorization": "Basic YTpi"},
    "wrong": {"Authorization": "Bearer nobody-has-this-one"},
    "too long": {"Authorization": "Bearer " + "x" * 9_000},
    "not a token's letters": {"Authorization": "Bearer a,b"},
}


async def answer_to(guarded: Guarded, row: Row, headers: dict[str, str]) -> Any:
    path = row.path.replace("{queue}", "default")
    if "{id}" in path:
        path = path.replace("{id}", await guarded.enqueued(ANY))
    return await guarded.api.client.request(row.method, path, json=row.body, params=row.asks, headers=headers)


async def test_every_route_has_a_row(guarded: Guarded) -> None:
    routes = {
        (route.path, method)
        for route in guarded.api.api.app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert routes == {(row.path, row.method) for row in ROWS}
    assert len(guarded.api.api.app.routes) == len(ROWS)


@EACH
@pytest.mark.parametrize("credential", NOT_GOOD)
async def test_without_a_good_credential_a_route_is_closed(guarded: Guarded, row: Row, credential: str) -> None:
    answer = await answer_to(guarded, row, NOT_GOOD[credential])
    if row.path in OPEN:
        assert answer.status_code == row.good
        return
    problem(answer, 401, "Unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="dtq"'


@EACH
async def test_an_expired_token_is_no_credential(guarded: Guarded, row: Row) -> None:
    answer = await answer_to(guarded, row, guarded.callers.header("old"))
    if row.path not in OPEN:
        assert "expired" in problem(answer, 401, "Unauthenticated")["detail"]


@EACH
async def test_a_caller_with_every_right_is_let_in(guarded: Guarded, row: Row) -> None:
    answer = await answer_to(guarded, row, guarded.callers.header("all"))
    assert answer.status_code == row.good, answer.text


@EACH
async def test_rights_on_another_type_do_not_count(guarded: Guarded, row: Row) -> None:
    answer = await answer_to(guarded, row, guarded.callers.header("small"))
    assert answer.status_code == row.other, answer.text
    if row.other == 403:
        detail = problem(answer, 403, "Forbidden")["detail"]
        assert f"`{row.needs}` on type {ANY}" in detail
        assert "token:small" in detail
        assert "DTQ_AUTH_POLICY_FILE" in detail


@EACH
async def test_a_known_caller_without_rights_gets_nothing(guarded: Guarded, row: Row) -> None:
    path = row.path.replace("{queue}", "default").replace("{id}", str(uuid4()))
    answer = await guarded.ask("idle", row.method, path, json=row.body, params=row.asks)
    assert answer.status_code == row.idle, answer.text
    if row.idle == 403:
        assert f"`{row.needs}`" in problem(answer, 403, "Forbidden")["detail"]


@pytest.mark.parametrize("path", ["/tasks/{id}", "/tasks/{id}/payload", "/tasks/{id}/events", "/tasks/{id}/cancel"])
async def test_a_forbidden_task_looks_like_one_that_does_not_exist(guarded: Guarded, path: str) -> None:
    there, nowhere = await guarded.enqueued(ANY), str(uuid4())
    method = "POST" if path.endswith("cancel") else "GET"
    forbidden = await guarded.ask("small", method, path.format(id=there))
    unknown = await guarded.ask("small", method, path.format(id=nowhere))
    assert problem(forbidden, 404, "NotFound")["detail"].replace(there, nowhere) == unknown.json()["detail"]
    assert forbidden.headers.keys() == unknown.headers.keys()
    assert (await guarded.ask("all", "GET", f"/tasks/{there}")).json()["status"] == "ENQUEUED"


@pytest.mark.parametrize("path", ["/nowhere", "/healthz/", "/livez/x", "//healthz", "/HEALTHZ", "/tasks/"])
async def test_a_path_that_is_not_open_is_closed_even_if_there_is_no_such_route(guarded: Guarded, path: str) -> None:
    assert (await guarded.ask(None, "GET", path)).status_code == 401


async def test_a_page_holds_the_types_that_its_caller_may_read(guarded: Guarded) -> None:
    mine, other = await guarded.enqueued(SMALL), await guarded.enqueued(ANY)
    page = (await guarded.ask("small", "GET", "/tasks")).json()
    assert page["tasks"][0]["id"] == mine
    assert {task["type"] for task in page["tasks"]} == {SMALL}
    page = (await guarded.ask("reader", "GET", "/tasks")).json()
    assert [task["id"] for task in page["tasks"][:2]] == [other, mine]


async def test_a_result_is_shown_to_those_who_may_read_payloads(guarded: Guarded) -> None:
    id_ = await guarded.enqueued(ANY)
    assert "result" in (await guarded.ask("all", "GET", f"/tasks/{id_}")).json()
    answer = await guarded.ask("reader", "GET", f"/tasks/{id_}")
    assert answer.status_code == 200
    assert "result" not in answer.json()


async def test_payload_and_traceback_are_shown_to_those_who_may_read_payloads(guarded: Guarded) -> None:
    id_ = await guarded.failed(ANY)
    await guarded.api.sql.execute("UPDATE tasks SET last_traceback = 'at line 1' WHERE id = $1", UUID(id_))
    assert (await guarded.ask("all", "GET", f"/tasks/{id_}")).json()["last_traceback"] == "at line 1"
    assert (await guarded.ask("all", "GET", f"/tasks/{id_}/payload")).json() == {"payload": {}}
    assert "last_traceback" not in (await guarded.ask("reader", "GET", f"/tasks/{id_}")).json()
    answer = await guarded.ask("reader", "GET", f"/tasks/{id_}/payload")
    assert f"`read-payload` on type {ANY}" in problem(answer, 403, "Forbidden")["detail"]
    assert "at line 1" not in (await guarded.ask("all", "GET", "/tasks")).text


async def test_who_may_read_a_task_is_told_that_cancelling_needs_another_right(guarded: Guarded) -> None:
    id_ = await guarded.enqueued(ANY)
    answer = await guarded.ask("reader", "POST", f"/tasks/{id_}/cancel")
    assert re.search(rf"`cancel` on type {ANY}", problem(answer, 403, "Forbidden")["detail"])
    assert (await guarded.ask("canceller", "POST", f"/tasks/{id_}/cancel")).status_code == 200


@pytest.mark.parametrize("chosen", ["ids", "filter"])
@pytest.mark.parametrize("dry_run", [True, False])
async def test_a_redrive_leaves_the_types_of_others_alone(guarded: Guarded, chosen: str, *, dry_run: bool) -> None:
    mine, other = await guarded.failed(SMALL), await guarded.failed(ANY)
    body = {"dry_run": dry_run} | ({"ids": [mine, other]} if chosen == "ids" else {"all": True})
    answer = await guarded.ask("small", "POST", "/dlq/redrive", json=body)
    assert mine in answer.json()["ids"]
    assert other not in answer.json()["ids"]
    statuses = [(await guarded.ask("all", "GET", f"/tasks/{id_}")).json()["status"] for id_ in (mine, other)]
    assert statuses == ["FAILED" if dry_run else "ENQUEUED", "FAILED"]


async def test_a_scaler_reads_its_hint_with_a_bearer_token_and_nothing_else(guarded: Guarded) -> None:
    answer = await guarded.ask("keda", "GET", "/queues/default/scaling")
    assert answer.status_code == 200
    assert answer.json()["desiredReplicas"] >= 0
    assert (await guarded.ask("keda", "GET", "/tasks")).status_code == 403


async def test_a_type_that_is_not_declared_is_as_forbidden_as_one_that_is(guarded: Guarded) -> None:
    details = []
    for type_ in (ANY, "sample.missing.v1"):
        answer = await guarded.ask("small", "POST", "/enqueue", json={"type": type_, "payload": {}})
        details.append(problem(answer, 403, "Forbidden")["detail"].replace(type_, "T"))
    assert details[0] == details[1]


async def test_two_credentials_are_none(guarded: Guarded) -> None:
    headers = [("Authorization", f"Bearer {guarded.callers.tokens[name]}") for name in ("all", "reader")]
    answer = await guarded.api.client.get("/tasks", headers=headers)
    problem(answer, 401, "Unauthenticated")


async def test_the_document_says_how_to_authenticate(guarded: Guarded) -> None:
    document = (await guarded.ask("idle", "GET", "/openapi.json")).json()
    assert document["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert ("security" in operation) == (path not in OPEN)
            assert ("401" in operation["responses"]) == (path not in OPEN)

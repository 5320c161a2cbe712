"""A caller sets what the body of its route has, and no other column of a task."""

from uuid import UUID

import asyncpg
import pytest

from tests.api.world import ANY, problem
from tests.auth.world import Guarded

ALLOWED = {"type", "payload", "queue", "max_attempts", "idempotency_key", "run_at"}
VALUES = ["SUCCEEDED", 1, True, None, "00000000-0000-0000-0000-000000000000", "2026-01-01T00:00:00Z"]


async def columns(sql: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    rows = await sql.fetch("SELECT column_name FROM information_schema.columns WHERE table_name = 'tasks'")
    return [row["column_name"] for row in rows]


async def test_no_column_but_those_of_the_body_can_be_set_at_enqueue(guarded: Guarded) -> None:
    names, before = set(await columns(guarded.api.sql)), await guarded.api.written()
    assert names > ALLOWED
    for name in names - ALLOWED:
        for value in VALUES:
            body = {"type": ANY, "payload": {}, name: value}
            answer = await guarded.ask("all", "POST", "/enqueue", json=body)
            assert name in problem(answer, 400, "InvalidBody")["detail"]
    assert await guarded.api.written() == before


@pytest.mark.parametrize("caller", ["all", "small"])
async def test_a_redrive_takes_no_columns_either(guarded: Guarded, caller: str) -> None:
    for name in set(await columns(guarded.api.sql)) - {"type", "queue"}:
        answer = await guarded.ask(caller, "POST", "/dlq/redrive", json={name: "x"})
        problem(answer, 400, "InvalidBody")


async def test_a_query_is_no_way_to_set_anything(guarded: Guarded) -> None:
    id_ = await guarded.enqueued()
    before = await guarded.api.row(UUID(id_))
    for name in await columns(guarded.api.sql):
        await guarded.ask("all", "GET", f"/tasks/{id_}", params={name: "SUCCEEDED"})
        await guarded.ask("all", "GET", "/tasks", params={name: "SUCCEEDED"})
    assert await guarded.api.row(UUID(id_)) == before

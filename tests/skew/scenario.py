"""The operations that every version must support on every schema that it may meet: declare, enqueue, retry, redrive."""

import asyncpg

from tests.support.system import Process, System, call
from tests.support.waiting import eventually
from tests.system.conftest import declare

SECONDS = 60.0


async def live(system: System) -> tuple[Process, Process]:
    """Check the schema, declare, and take tasks through every transition; return the API and the worker."""
    system.run("migrate", "--check")
    declare(system)
    api, worker = system.api(), system.worker()
    await api.ready()
    await worker.ready()
    done = await enqueue(api, "sample.note.v1", {"fail_first": True}, idempotency_key="one")
    assert await ends(api, done) == "SUCCEEDED"
    assert await enqueue(api, "sample.note.v1", {"fail_first": True}, idempotency_key="one") == done
    failed = await enqueue(api, "sample.fail.v1", {}, max_attempts=1)
    assert await ends(api, failed) == "FAILED"
    status, _, answer = await call(f"http://{api.address}/dlq/redrive", {"ids": [failed]})
    assert (status, answer["redriven"]) == (200, 1), answer
    waiting = await enqueue(api, "sample.note.v1", {}, run_at="2027-01-01T00:00:00Z")
    status, _, answer = await call(f"http://{api.address}/tasks/{waiting}/cancel", {})
    assert status in (200, 202), answer
    assert await ends(api, waiting) == "CANCELLED"
    assert (await call(f"http://{api.address}/tasks"))[0] == 200
    assert "sample.note.v1" in system.run("get", "tasktypes", "-o", "json")
    system.run("get", "queuesets", "-o", "json")
    return api, worker


async def enqueue(api: Process, type_: str, payload: object, **more: object) -> str:
    """Enqueue a task; return its id."""
    status, _, answer = await call(f"http://{api.address}/enqueue", {"type": type_, "payload": payload} | more)
    assert status == 201, answer
    return str(answer["id"])


async def ends(api: Process, id_: str) -> str:
    """Wait for the end of a task; return its status."""
    last = {"status": ""}

    async def it_has_ended() -> bool:
        last.update((await call(f"http://{api.address}/tasks/{id_}"))[2] or {})
        return last["status"] in ("SUCCEEDED", "FAILED", "CANCELLED")

    await eventually(it_has_ended, lambda: f"task {id_} ends: {last}", SECONDS)
    return last["status"]


async def row(sql: "asyncpg.Connection[asyncpg.Record]", id_: str) -> asyncpg.Record:
    """Return a task's row."""
    found = await sql.fetchrow("SELECT status, attempts, last_error FROM tasks WHERE id = $1::text::uuid", id_)
    assert found is not None
    return found

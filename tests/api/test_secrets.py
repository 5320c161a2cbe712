"""Secrets stay where they belong: no payload, password or DSN in a log, a metric, a problem or a list."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest

from dtq.domain.errors import Rejected
from dtq_db.connections import Database
from tests.api.world import ANY, SMALL, STRICT, declare, eventually, free_port
from tests.support.addresses import BrokerVhost

CANARY = "canary-4cbf1c"
JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def api_process(environ: dict[str, str], log: IO[bytes]) -> AsyncIterator[httpx2.AsyncClient]:
    """`dtq api` as it is run in production; `log` gets all that it says."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "dtq_cli", "api"),
        env=dict(os.environ) | environ | {"HTTP_PORT": f"127.0.0.1:{port}"},
        stderr=log,
    )
    try:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:

            async def healthy() -> bool:
                assert process.returncode is None
                try:
                    return (await client.get("/healthz")).status_code == 200
                except httpx2.TransportError:
                    return False

            await eventually(healthy, "the API is healthy")
            yield client
    finally:
        process.terminate()
        await process.wait()


def requests() -> list[tuple[bytes, int]]:
    """Bodies with a secret in every place where a secret may be, and their answers."""

    def body(type_: str, payload: object, **fields: object) -> bytes:
        return json.dumps({"type": type_, "payload": payload} | fields).encode()

    return [
        (body(ANY, {"token": CANARY, CANARY: 1}), 201),
        (body(ANY, {"token": CANARY}, idempotency_key="k"), 201),
        (body(ANY, {"token": f"{CANARY}-other"}, idempotency_key="k"), 409),
        (body(STRICT, {"to": CANARY, "copies": CANARY}), 400),
        (body(STRICT, CANARY), 400),
        (body(SMALL, CANARY * 100), 413),
        (body(ANY, {"token": CANARY}, run_at="soon"), 400),
        (body(ANY, {"token": CANARY}, max_attempts=CANARY), 400),
        (body(ANY, {"token": CANARY}, idempotency_key=f"{CANARY}\n"), 400),
        (f'{{"type": "{ANY}", "payload": "{CANARY}'.encode(), 400),
        (f'{{"type": "{ANY}", "payload": "{CANARY}\\u0000"}}'.encode(), 400),
        (f'{{"type": "{ANY}", "payload": ["{CANARY}", 1e-99999]}}'.encode(), 400),
        (f'{{"type": "{ANY}", "payload": "{CANARY}\xff"}}'.encode("latin-1"), 400),
    ]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[IO[bytes]]:
    with (tmp_path / "log").open("w+b") as file:
        yield file


@pytest.mark.parametrize("log_format", ["json", "console"])
async def test_nothing_that_the_api_says_holds_a_secret(
    dsn: str, broker_vhost: BrokerVhost, log: IO[bytes], log_format: str
) -> None:
    await declare(dsn)
    environ = broker_vhost.environ(dsn, DTQ_LOG_LEVEL="debug", DTQ_LOG_FORMAT=log_format)
    said: list[str] = []
    sql = await asyncpg.connect(dsn)
    async with api_process(environ, log) as client:
        for content, status in requests():
            answer = await client.post("/enqueue", content=content, headers=JSON)
            assert answer.status_code == status, answer.text
            said.append(answer.text)
        # A bug: Postgres' own words would show the whole row.
        await sql.execute("ALTER TABLE tasks ADD CONSTRAINT forbidden CHECK (payload::text !~ 'other')")
        answer = await client.post("/enqueue", content=requests()[2][0].replace(b'"k"', b'"l"'), headers=JSON)
        assert (answer.status_code, answer.json()["type"]) == (500, "https://dtq.dev/problems/Internal")
        said.append(answer.text)
        await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ '^dtq-api'"
                          " AND datname = current_database()")  # fmt: skip
        paths = ("/", "/tasks", "/metrics", "/healthz", "/readyz", "/dlq/redrive", "/nope")
        said += [(await client.get(path)).text for path in paths]
        said.append((await client.post("/enqueue", content=requests()[0][0], headers=JSON)).text)
    await sql.close()
    log.seek(0)
    logged = log.read().decode()
    assert "request crashed" in logged
    assert "CheckViolation" in logged
    secrets = {"payload": CANARY, "database": urlsplit(dsn).password or "", "broker": broker_vhost.password}
    for name, secret in secrets.items():
        assert secret, name
        assert secret not in logged, name
        assert not [text for text in said if secret in text], name
    assert dsn not in logged


async def test_what_postgres_tells_of_a_row_is_not_repeated(dsn: str) -> None:
    async with Database(dsn, name="test") as database:
        with pytest.raises(asyncpg.CheckViolationError) as caught:
            await database.fetch(
                "INSERT INTO task_events (task_id, event, note) VALUES (gen_random_uuid(), 'x', $1)", CANARY
            )
        assert CANARY not in str(caught.value)
        with pytest.raises(Rejected, match="cannot hold") as refused:
            await database.fetch("SELECT $1::text::jsonb", f'["{CANARY}", 1e-99999]')
        assert CANARY not in str(refused.value)


async def test_json_that_is_too_deep_for_postgres_is_refused_and_no_bug(dsn: str) -> None:
    async with Database(dsn, name="test") as database:
        with pytest.raises(Rejected) as refused:
            await database.fetch("SELECT $1::text::jsonb", "[" * 100_000 + "]" * 100_000)
        assert refused.value.code == "NotStorable"

"""Statements and indexes: each prepares, none scans the table, and a finish touches no index."""

import subprocess
import sys
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg
import pytest

from dtq.domain.states import TaskStatus
from dtq_db.queries import names, query
from tests.db.world import World, ending

ROWS = 20_000
FILL = """
INSERT INTO tasks (id, type, queue, status, payload, needs_publish, publish_at, failed_at, worker_id,
    idempotency_key)
SELECT gen_random_uuid(), 'email.send.v1', 'default', s.status, '{}',
    CASE s.status WHEN 'ENQUEUED' THEN n % 2 = 0 END,
    CASE s.status WHEN 'ENQUEUED' THEN now() - interval '1 minute' END,
    CASE s.status WHEN 'FAILED' THEN now() END, CASE WHEN s.status <> 'ENQUEUED' THEN gen_random_uuid() END,
    CASE WHEN n % 3 = 0 THEN 'key-' || n END
FROM generate_series(1, $1) n,
    LATERAL (SELECT (ARRAY['ENQUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED'])[1 + n % 4] AS status) s
"""
ACCESS = """
SELECT seq_scan, seq_tup_read, idx_tup_fetch, n_tup_upd, n_tup_hot_upd
FROM pg_stat_xact_user_tables WHERE relname = 'tasks'
"""


async def access(world: World) -> asyncpg.Record:
    """Return how this session has touched the table, as far as it was not told to others, as it may be at a commit."""
    row = await world.sql.fetchrow(ACCESS)
    assert row is not None
    return row


@pytest.mark.parametrize("name", names())
async def test_every_statement_prepares_against_the_schema(world: World, name: str) -> None:
    prepared = await world.sql.prepare(query(name))
    assert query(name).count("$") == 0 or prepared.get_parameters()


async def one_life(world: World, worker: UUID) -> None:
    """Send a few tasks through every statement; none may read more rows than it is asked about."""
    ids = await world.enqueue(20)
    won: dict[UUID, int] = {}

    async def claim() -> None:
        won.update(await world.claim(worker, *ids))

    async def finish() -> None:
        assert await world.finish(*(ending(worker, id_, won[id_], TaskStatus.FAILED) for id_ in ids))

    versions = {id_: await world.version(id_) for id_ in ids}
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "confirm": lambda: world.confirm(versions),
        "claim": claim,
        "finish": finish,
        "redrive": lambda: world.redrive(*ids),
        "release": lambda: world.release(worker, *ids),
        "undo": lambda: world.undo(*ids),
        "replay": lambda: world.replay("key-3"),
        "cancel": lambda: world.cancel(ids[0]),
        "renew": lambda: world.renew(worker),
        "relay": lambda: world.relay(limit=20),
        "lost": lambda: world.lost(limit=20),
    }
    for name, step in steps.items():
        async with world.sql.transaction():
            before = await access(world)
            await step()
            after = await access(world)
        assert after["seq_scan"] == before["seq_scan"], name
        assert after["idx_tup_fetch"] - before["idx_tup_fetch"] <= 5 * len(ids), name


async def test_no_statement_of_the_hot_path_scans_the_table(world: World) -> None:
    worker = await world.worker()
    # The plans are made while the table is empty, as a process does that starts before its first task.
    await world.relay()
    await world.claim(worker, uuid4())
    await world.finish(ending(worker, uuid4(), 1, TaskStatus.SUCCEEDED))
    await world.confirm({uuid4(): await world.now()})
    await world.lost()
    await world.sql.execute("SET statement_timeout = 0")
    await world.sql.execute(FILL, ROWS, timeout=120)
    await world.sql.execute("ANALYZE tasks")
    for _ in range(8):  # beyond five, when a prepared statement may turn to its generic plan
        await one_life(world, worker)


async def test_a_finish_is_a_hot_update(world: World) -> None:
    ids, worker = await world.enqueue(5), await world.worker()
    await world.claim(worker, *ids)
    async with world.sql.transaction():
        before = await access(world)
        await world.finish(*(ending(worker, id_, 1, TaskStatus.SUCCEEDED, result='{"ok": 1}') for id_ in ids))
        after = await access(world)
    assert after["n_tup_upd"] - before["n_tup_upd"] == len(ids)
    assert after["n_tup_hot_upd"] - before["n_tup_hot_upd"] == len(ids)


async def test_no_index_mentions_the_status(world: World) -> None:
    rows = await world.sql.fetch("SELECT indexdef FROM pg_indexes WHERE tablename = 'tasks'")
    assert rows
    assert not [row["indexdef"] for row in rows if "status" in row["indexdef"]]


def test_the_statements_are_read_at_the_start() -> None:
    script = """
import resource, dtq_db.queries as queries
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
assert all(queries.query(name) for name in queries.names())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)

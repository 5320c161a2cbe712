"""Plans: whatever the table holds, and whatever ANALYZE saw last, every statement reaches its rows by key or index."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import asyncpg
import pytest

from dtq_db.queries import names, query
from tests.db import plans
from tests.db.plans import BATCH, OPPOSITES, STATES, Explainer
from tests.db.world import Connection
from tests.support.addresses import PostgresService
from tests.support.databases import fresh_database

EXAMINED_MAX: Final = 4
"""Rows that a step may examine for each row asked for."""
BLOCKS_MAX: Final = 60
"""Pages that a statement may touch for each row asked for; a walk over an index or the table touches thousands."""
BLOCKS_REST: Final = 1_000
"""Pages besides, whatever is asked for: types, queues, workers, partitions of the history."""
LAST_ID: Final = UUID(int=2**128 - 1)
NOW: Final = datetime.now(UTC)
EVERY_QUEUE: Final = 9 * BATCH
"""Rows that a statement asks for that takes a batch of each queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Rows of the table that statements are asked about; random where there are none."""

    ids: list[UUID]
    versions: list[datetime]
    running: list[UUID]
    worker: UUID
    lost_worker: UUID


Arguments = Callable[[Sample], tuple[Any, ...]]
"""Every statement that may touch `tasks`, with arguments and the rows it asks for."""
STATEMENTS: Final[dict[str, tuple[int, Arguments]]] = {
    "backlog_queues": (2 * EVERY_QUEUE, lambda _: (BATCH,)),
    "backlog_totals": (2 * EVERY_QUEUE, lambda _: (BATCH,)),
    "event_partitions_create": (0, lambda _: (7,)),
    "event_partitions_drop": (0, lambda _: (30,)),
    "maintenance_due": (EVERY_QUEUE // BATCH, lambda _: (5.0,)),
    "queue_backlog": (6 * BATCH, lambda _: (list(plans.QUEUES), "other", BATCH)),
    "queue_removed": (EVERY_QUEUE, lambda _: (BATCH,)),
    "queue_waiting": (2 * BATCH, lambda _: ("other", "low", BATCH)),
    "slot_blocked": (BATCH, lambda _: ("", BATCH)),
    "task_cancel": (1, lambda s: (s.ids[0],)),
    "task_claim": (BATCH, lambda s: (s.worker, s.ids, ["type-1.v1", plans.LIMITED], 1.0)),
    "task_confirm": (BATCH, lambda s: (s.ids, s.versions)),
    "task_dead_letter": (BATCH, lambda s: (s.ids, s.versions)),
    "task_dead_letter_due": (3 * BATCH, lambda _: (5.0, BATCH, [])),
    "task_dead_letter_lost": (BATCH, lambda _: ("other", datetime.fromtimestamp(0, UTC), UUID(int=0), BATCH)),
    "task_enqueue": (
        BATCH,
        lambda _: (
            [uuid4() for _ in range(BATCH)],
            ["type-1.v1"] * BATCH,
            ["default"] * BATCH,
            ["default"] * BATCH,
            ["{}"] * BATCH,
            [5] * BATCH,
            [None] * BATCH,
            [None] * BATCH,
            5.0,
        ),
    ),
    "task_events": (BATCH, lambda s: (s.ids[0], BATCH)),
    "task_failed_select": (BATCH, lambda _: ("low", None, NOW.replace(year=2000), UUID(int=0), BATCH, None)),
    "task_failed_select_type": (
        BATCH,
        lambda _: ("low", "type-7.v1", NOW.replace(year=2000), UUID(int=0), BATCH, None),
    ),
    "task_finish": (
        BATCH,
        lambda s: (
            [s.worker] * BATCH,
            s.running,
            [1] * BATCH,
            (["SUCCEEDED", "FAILED", "ENQUEUED", "CANCELLED"] * BATCH)[:BATCH],
            [None] * BATCH,
            ["boom"] * BATCH,
            [1.0] * BATCH,
            [1.0] * BATCH,
            [False] * BATCH,
            [False] * BATCH,
            [None] * BATCH,
            [True] * BATCH,
            [False] * BATCH,
        ),
    ),
    "task_get": (1, lambda s: (s.ids[0],)),
    "task_id_bounds": (1, lambda _: ()),
    "task_list": (BATCH, lambda _: (LAST_ID, BATCH, "type-99.v1", "low", None, 10, "CANCELLED")),
    "task_list_cancelled": (BATCH, lambda _: (LAST_ID, BATCH, None, None, None, BATCH)),
    "task_list_failed": (BATCH, lambda _: (LAST_ID, BATCH, None, None, None, BATCH)),
    "task_list_failed_type": (BATCH, lambda _: (LAST_ID, BATCH, "type-7.v1", None, None, BATCH)),
    "task_list_running": (2 * BATCH, lambda _: (LAST_ID, BATCH, None, None, None, BATCH)),
    "task_list_waiting": (BATCH, lambda _: (LAST_ID, BATCH, None, None, None, BATCH)),
    "task_lost": (BATCH, lambda _: ("other", "low", 0.0, BATCH)),
    "task_move": (BATCH, lambda _: ("other", "gone", BATCH)),
    "task_payload": (1, lambda s: (s.ids[0],)),
    "task_prune": (BATCH, lambda _: (BATCH,)),
    "task_redrive": (BATCH, lambda s: (s.ids,)),
    "task_relay": (EVERY_QUEUE, lambda _: (BATCH, 10.0, [])),
    "task_release": (BATCH, lambda s: (s.worker, s.running)),
    "task_replay": (1, lambda _: ("no such key", "type-1.v1", "{}")),
    "task_run_alone": (1, lambda s: (s.worker, s.running[0], 1)),
    "task_status_many": (BATCH, lambda s: (s.ids, None)),
    "task_type_deletion_begin": (1, lambda _: ("type-3.v1",)),
    "task_type_delete": (1, lambda _: ("type-4.v1",)),
    "task_type_in_use": (BATCH, lambda _: ("type-4.v1", UUID(int=0), LAST_ID, BATCH)),
    "task_unblock": (BATCH, lambda _: ([f"{plans.LIMITED}:{n}" for n in range(BATCH)], BATCH, 10.0)),
    "task_undo": (BATCH, lambda s: (s.ids,)),
    "worker_expire": (1, lambda s: (s.worker,)),
    "worker_reaped": (1, lambda s: (s.lost_worker,)),
    "worker_register": (1, lambda _: (uuid4(), "w", ["default"], ["a.v1"], 8, 15.0, None, None)),
    "worker_renew": (BATCH, lambda s: (s.worker, 15.0, json.dumps({}), None)),
    "worker_running": (BATCH, lambda s: (s.lost_worker, BATCH)),
}
MODES: Final = ("generic", "custom", "generic of others", "custom of others")
CONTRACT: Final = {
    "task_claim",
    "task_confirm",
    "task_dead_letter",
    "task_finish",
    "task_release",
    "task_run_alone",
    "worker_expire",
    "worker_register",
    "worker_renew",
}
"""What a worker in another language calls, with settings of its own (docs/worker-contract.md)."""


def test_every_statement_that_may_touch_tasks_is_among_them() -> None:
    code = {name: re.sub("--.*", "", query(name)) for name in names()}
    assert {name for name in names() if re.search(r"\btasks\b|dtq_", code[name])} - STATEMENTS.keys() == set()
    assert STATEMENTS.keys() <= set(names())


@pytest.mark.timeout(300)  # on a busy machine
@pytest.mark.parametrize("name", STATES)
async def test_no_plan_depends_on_what_analyze_saw_last(
    postgres_server: PostgresService, template_database: str, name: str
) -> None:
    wrong: list[str] = []
    async with _database(postgres_server, template_database) as (dsn, admin), AsyncExitStack() as stack:
        sessions = {mode: await stack.enter_async_context(_session(dsn, mode)) for mode in MODES}
        # Their plans are made while the table is empty, as a process does that starts before its first task.
        for mode, session in sessions.items():
            await _check(session, await _nobody(admin), mode, "prepared", [])
        await plans.load(admin, STATES[name], salt=0)
        sample = await _sample(admin)
        for statistics in ("never analysed", "analysed now"):
            for mode, session in sessions.items():
                await _check(session, sample, mode, statistics, wrong)
            await admin.execute("ANALYZE")
    async with _database(postgres_server, template_database) as (dsn, admin):
        await plans.load(admin, OPPOSITES.get(name, plans.FINISHED), salt=1_000_000)
        await admin.execute("ANALYZE")
        await admin.execute("TRUNCATE tasks")  # the statistics stay
        await plans.load(admin, STATES[name], salt=0)
        sample = await _sample(admin)
        for mode in MODES:
            async with _session(dsn, mode) as session:
                await _check(session, sample, mode, "while the session reads the system's catalog", [])
                await _check(session, sample, mode, "analysed in the opposite state", wrong)
    assert not wrong, "\n".join(wrong)


def _session(dsn: str, mode: str) -> AbstractAsyncContextManager[Explainer]:
    return plans.explaining(dsn, f"force_{mode.removesuffix(' of others')}_plan", is_ours=mode in ("generic", "custom"))


async def _check(session: Explainer, sample: Sample, mode: str, statistics: str, wrong: list[str]) -> None:
    case = f"{statistics}, {mode} plan"
    for name, (asked, arguments) in STATEMENTS.items():
        if mode.endswith("of others") and name not in CONTRACT:
            continue
        try:
            run = await session.run(query(name), *arguments(sample))
        except asyncpg.QueryCanceledError:
            wrong.append(f"{name}, {case}: statement timeout")
            continue
        for node in run.nodes:
            if node.relation == "tasks" and node.kind == "Seq Scan":
                wrong.append(f"{name}, {case}: scans tasks")
            if node.examined > EXAMINED_MAX * max(asked, BATCH) and (node.relation == "tasks" or not node.relation):
                wrong.append(f"{name}, {case}: {node.kind} {node.index} examines {node.examined} rows for {asked}")
        if run.blocks > BLOCKS_MAX * asked + BLOCKS_REST:
            wrong.append(f"{name}, {case}: touches {run.blocks} pages for {asked} rows")


async def _nobody(sql: Connection) -> Sample:
    ids = sorted(uuid4() for _ in range(BATCH))
    living = await sql.fetchval("SELECT id FROM workers LIMIT 1")
    return Sample(ids=ids, versions=[NOW] * BATCH, running=ids, worker=living, lost_worker=uuid4())


async def _sample(sql: Connection) -> Sample:
    """Add a batch that runs at a living worker and one at a lost one, as a claim leaves them; pick some others."""
    living = await sql.fetchval("SELECT id FROM workers LIMIT 1")
    lost = uuid4()
    await sql.execute(
        "INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)"
        " VALUES ($1, 'lost', '{}', '{}', 8, now() - interval '1 minute')",
        lost,
    )
    running = await _run(sql, living)
    await _run(sql, lost)
    rows = await sql.fetch(
        "SELECT id, updated_at FROM tasks WHERE NOT id = ANY ($1) ORDER BY md5(id::text) LIMIT $2", running, BATCH
    )
    ids = sorted([row["id"] for row in rows] + [uuid4() for _ in range(BATCH - len(rows))])
    versions = {row["id"]: row["updated_at"] for row in rows}
    return Sample(
        ids=ids, versions=[versions.get(id_, NOW) for id_ in ids], running=running, worker=living, lost_worker=lost
    )


async def _run(sql: Connection, worker: UUID) -> list[UUID]:
    ids = sorted(uuid4() for _ in range(BATCH))
    await sql.execute(
        "INSERT INTO tasks (id, type, queue, status, payload, attempts, worker_id)"
        " SELECT id, 'type-1.v1', 'default', 'RUNNING', '{}', 1, $2 FROM unnest($1::uuid[]) AS i (id)",
        ids,
        worker,
    )
    await sql.execute("INSERT INTO worker_claims (worker_id, task_ids) VALUES ($2, $1)", ids, worker)
    return ids


@asynccontextmanager
async def _database(server: PostgresService, template: str) -> AsyncIterator[tuple[str, Connection]]:
    async with fresh_database(server, template=template) as dsn:
        as_admin = plans.as_admin(server.admin_dsn, dsn)
        admin = await asyncpg.connect(as_admin)
        try:
            await admin.execute(plans.DECLARE)
            yield as_admin, admin
        finally:
            admin.terminate()

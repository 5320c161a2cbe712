"""The basis of the test of plans: tables in states that occur in production, and the plans that were executed.

Runs statements as the application does: with the same settings and the same prepared statements.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from dtq_db.connections import SERVER_SETTINGS
from tests.db.world import Connection

ROWS: Final = 200_000
BATCH: Final = 20
"""Rows that a statement asks for."""
TYPES: Final = 5_000
QUEUES: Final = ("default", "high", "low")
LIMITED: Final = "limited.v1"
_EXPLAIN: Final = {
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_nested_statements": "on",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_buffers": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
    "auto_explain.log_level": "notice",
    "client_min_messages": "notice",
}

DECLARE: Final = f"""
INSERT INTO queue_set (name, namespace, retry_delays_seconds, paused)
SELECT name, name, '{{5}}', name = 'paused' FROM unnest(ARRAY['default', 'other', 'paused']) AS s (name);
INSERT INTO queue (queue_set, name, position, type)
SELECT s.name, q, 0, 'Quorum' FROM queue_set s, unnest(ARRAY['default', 'high', 'low']) AS q;
INSERT INTO task_type (type, default_queue) SELECT 'type-' || n || '.v1', 'default' FROM generate_series(1, {TYPES}) n;
INSERT INTO task_type (type, default_queue, concurrency) VALUES ('{LIMITED}', 'default', '{{"limit": 5, "key": "k"}}');
INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)
SELECT gen_random_uuid(), 'w' || n, '{{default}}', '{{}}', 8, now() + interval '1 day' FROM generate_series(1, 50) n;
ALTER TABLE tasks SET (autovacuum_enabled = false);
"""
_LOAD: Final = """
INSERT INTO tasks (id, type, queue_set, queue, status, payload, attempts, worker_id, needs_publish, publish_at, run_at,
    blocked_on, failed_at, dead_letter_at, dead_lettered_at, created_at, updated_at)
SELECT (lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint - {rows} + n), 12, '0') || '70008'
        || lpad(to_hex({salt} + n), 15, '0'))::uuid,
    {type}, (ARRAY['default', 'default', 'other', 'paused'])[1 + n % 4], (ARRAY['default', 'high', 'low'])[1 + n % 3],
    '{status}', '{{}}', 0, CASE WHEN '{status}' <> 'ENQUEUED' THEN gen_random_uuid() END,
    {needs_publish}, CASE WHEN '{status}' = 'ENQUEUED' THEN now() + {due} END, now() - interval '1 hour',
    {blocked_on}, CASE WHEN '{status}' = 'FAILED' THEN now() END,
    CASE WHEN '{status}' = 'FAILED' AND n % 2 = 0 THEN now() - interval '1 minute' END,
    CASE WHEN '{status}' = 'FAILED' AND n % 2 = 1 THEN now() END, now(), now()
FROM generate_series(1, {rows}) n
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What fills the table. `type`, `needs_publish`, `due` and `blocked_on` are expressions over n."""

    status: str
    rows: int = ROWS
    type: str = "'type-' || 1 + n % 100 || '.v1'"
    needs_publish: str = "NULL::boolean"
    due: str = "- interval '1 minute'"
    blocked_on: str = "NULL::text"

    def load(self, salt: int) -> str:
        """Return the statement that inserts the rows."""
        return _LOAD.format(
            rows=self.rows,
            salt=salt,
            type=self.type,
            status=self.status,
            needs_publish=self.needs_publish,
            due=self.due,
            blocked_on=self.blocked_on,
        )


FINISHED: Final = State(status="SUCCEEDED")
WAITING: Final = State(status="ENQUEUED", needs_publish="n % 2 = 0")
STATES: Final = {
    "empty": State(status="SUCCEEDED", rows=0),
    "finished": FINISHED,
    "waiting": WAITING,
    "blocked": State(
        status="ENQUEUED",
        rows=50_000,
        type=f"'{LIMITED}'",
        needs_publish="true",
        due="interval '1 hour'",
        blocked_on=f"'{LIMITED}:' || n % 1000",
    ),
    "failed": State(status="FAILED", rows=100_000),
    "skewed": State(
        status="SUCCEEDED", type=f"'type-' || CASE WHEN n % 100 = 0 THEN 2 + n % {TYPES - 1} ELSE 1 END || '.v1'"
    ),
}
OPPOSITES: Final = {"empty": WAITING, "finished": WAITING, "skewed": WAITING}
"""What the statistics say in the opposite state; for the others, that all has succeeded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One node of a plan that was run."""

    kind: str
    relation: str
    index: str
    examined: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One statement's run, with what it ran inside functions.

    Attributes:
        blocks: pages read or found in memory, by the statement itself and all that it ran.
    """

    nodes: tuple[Node, ...]
    blocks: int
    text: str


class Explainer:
    """A session with the application's settings that reports the plans it runs."""

    def __init__(self, connection: Connection) -> None:
        self.sql = connection
        self._heard: list[str] = []
        connection.add_log_listener(self._listen)

    def _listen(self, _: Any, message: Any) -> None:
        self._heard.append(str(message))

    async def run(self, statement: str, *args: Any) -> Run:
        """Run a statement for real and take it back."""
        prepared = await self.sql.prepare(statement)
        transaction = self.sql.transaction()
        await transaction.start()
        self._heard.clear()  # the driver has asked about types
        try:
            await prepared.fetch(*args)
        finally:
            await transaction.rollback()
        plans = [json.loads(text[text.index("{") :]) for text in self._heard if "plan:" in text]
        top = plans[-1]["Plan"]
        return Run(
            nodes=tuple(node for plan in plans for node in _nodes(plan["Plan"])),
            blocks=top["Shared Hit Blocks"] + top["Shared Read Blocks"],
            text="\n".join(self._heard),
        )


def _nodes(plan: dict[str, Any]) -> Iterator[Node]:
    removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
    yield Node(
        kind=plan["Node Type"],
        relation=plan.get("Relation Name", ""),
        index=plan.get("Index Name", ""),
        examined=round((plan["Actual Rows"] + removed) * plan["Actual Loops"]),
    )
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


def as_admin(admin_dsn: str, dsn: str) -> str:
    """Return the URL of a test's database, as the administrator: other roles cannot read plans."""
    return urlunsplit(urlsplit(admin_dsn)._replace(path=urlsplit(dsn).path))


@asynccontextmanager
async def explaining(dsn: str, plan_cache_mode: str, *, is_ours: bool = True) -> AsyncIterator[Explainer]:
    """Give a session of the application, or of a worker that knows nothing of our settings, with its plans made so."""
    settings = SERVER_SETTINGS if is_ours else {}
    connection = await asyncpg.connect(dsn, server_settings=settings | {"plan_cache_mode": plan_cache_mode})
    try:
        await connection.execute("LOAD 'auto_explain'")
        for name, value in _EXPLAIN.items():
            await connection.execute(f"SET {name} = {value}")
        yield Explainer(connection)
    finally:
        connection.terminate()


async def load(connection: Connection, state: State, *, salt: int) -> None:
    """Insert the rows of a state, past the triggers."""
    await connection.execute("SET session_replication_role = replica")
    await connection.execute(state.load(salt))
    await connection.execute("SET session_replication_role = origin")

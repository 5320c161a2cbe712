"""The backlog: the waiting tasks, the age of the oldest, and the workers that could run them.

The statements are bounded and never scan the table: a backlog of millions costs as much as one of thousands.
Every function raises `Unavailable` when the database does not answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dtq.domain.scaling import Load
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.queries import query

COUNT_MAX: Final = 10_000
"""Where counting stops, in tasks: a gauge with this value says enough, and is read in some milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueBacklog:
    """The due and waiting tasks of one queue."""

    queue_set: str
    queue: str
    waiting: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """The backlog of the queues and the totals; each count stops at COUNT_MAX."""

    queues: tuple[QueueBacklog, ...]
    outbox: int
    outbox_lag_seconds: float
    blocked: int
    failed: int
    dead_letters_due: int
    workers_alive: int
    workers_expired: int


async def waiting(database: Database, queue_set: str, queues: Sequence[str]) -> dict[str, int]:
    """Return the number of due and waiting tasks of each queue, wherever their messages are; COUNT_MAX at most."""
    rows = await database.fetch(query("queue_backlog"), list(queues), queue_set, COUNT_MAX)
    return {row["queue"]: row["waiting"] for row in rows}


async def loads(database: Database, queue_set: str, queues: Sequence[str]) -> dict[str, Load]:
    """Return what waits and runs in each queue; the running tasks are at most one renewal old."""
    rows = await database.fetch(query("worker_running_counts"))
    running = {row["key"]: (row["running"], row["concurrency"]) for row in rows}
    found = {}
    for queue, ready in (await waiting(database, queue_set, queues)).items():
        busy, slots = running.get(f"{queue_set}/{queue}", (0, 0))
        found[queue] = Load(ready=ready, running=busy, concurrency=slots)
    return found


async def look(dedicated: DedicatedConnection) -> Backlog:
    """Return the current backlog."""
    queues = await dedicated.fetch(query("backlog_queues"), COUNT_MAX)
    (totals,) = await dedicated.fetch(query("backlog_totals"), COUNT_MAX)
    return Backlog(queues=tuple(QueueBacklog(**dict(row)) for row in queues), **dict(totals))

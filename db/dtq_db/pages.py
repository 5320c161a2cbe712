"""Pages of tasks: chooses the statement for a filter, served by an index or by a walk of bounded length.

The cost must not grow with the table: a filter that few tasks match gives a short page, and the cursor says where to
continue. Every function raises `Unavailable` when the database does not answer.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from dtq.domain.errors import Unavailable
from dtq.domain.states import TaskStatus
from dtq_db.connections import Database
from dtq_db.queries import query

LOOK_MAX: Final = 5_000
"""Most tasks examined for one page: some milliseconds, however few of them match."""
FAILED_SECONDS: Final = 3.0
"""How long a redrive searches for tasks that match its filter, in seconds."""
_FIRST_ID: Final = UUID(int=0)
_LAST_ID: Final = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a page shows; None does not filter.

    Attributes:
        types: the types that the caller may see.
    """

    after: UUID | None = None
    status: str | None = None
    type: str | None = None
    queue: str | None = None
    types: Sequence[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page.

    Attributes:
        rows: newest first; there may be fewer than asked for although more exist.
        next: where the next page begins; None after the last page.
    """

    rows: list[dict[str, Any]]
    next: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedFilter:
    """Which failed tasks a redrive takes; None does not filter.

    Attributes:
        types: the types that the caller may redrive.
    """

    type: str | None = None
    queue: str | None = None
    failed_before: datetime | None = None
    types: Sequence[str] | None = None


async def page(database: Database, chosen: TaskFilter, limit: int) -> Page:
    """Return one page of tasks."""
    statement = _statement(chosen)
    look = LOOK_MAX if _is_filtered(chosen, statement) else limit

    async def fetch() -> list[asyncpg.Record]:
        values: list[object] = [chosen.after or _LAST_ID, look, chosen.type, chosen.queue, chosen.types, limit]
        if statement == "task_list":
            values.append(chosen.status)
        return await database.fetch(query(statement), *values)

    found = await fetch()
    if statement == "task_list_waiting" and found[0]["looked_at"] >= look:
        # More tasks wait than one page examines, and most of them are the newest tasks.
        statement = "task_list"
        found = await fetch()
    rows = [_task(row) for row in found if row["id"] is not None]
    if len(rows) == limit:
        return Page(rows=rows, next=rows[-1]["id"])
    is_cut = statement != "task_list_waiting" and found[0]["looked_at"] == look
    return Page(rows=rows, next=found[0]["last_id"] if is_cut else None)


async def failed(database: Database, chosen: FailedFilter, limit: int) -> list[UUID]:
    """Return up to `limit` matching failed tasks, oldest failure first, of those examined in FAILED_SECONDS.

    Raises:
        Unavailable: no matching task was found in that time, or the database does not answer.
    """
    statement = query("task_failed_select_type" if chosen.type else "task_failed_select")
    types = chosen.type or chosen.types
    after, last = datetime.fromtimestamp(0, UTC), _FIRST_ID
    until = time.monotonic() + FAILED_SECONDS
    found: list[UUID] = []
    while len(found) < limit:
        rows = await database.fetch(statement, chosen.queue, types, after, last, LOOK_MAX, chosen.failed_before)
        found += [row["id"] for row in rows if row["matches"]]
        if len(rows) < LOOK_MAX:
            break
        after, last = rows[-1]["failed_at"], rows[-1]["id"]
        if time.monotonic() > until:
            if not found:
                raise Unavailable("too many failed tasks to search in time: filter by type")
            break
    return found[:limit]


def _task(row: asyncpg.Record) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("looked_at", "last_id")}


def _statement(chosen: TaskFilter) -> str:
    match chosen.status:
        case TaskStatus.FAILED:
            return "task_list_failed_type" if chosen.type else "task_list_failed"
        case TaskStatus.CANCELLED:
            return "task_list_cancelled"
        case TaskStatus.RUNNING:
            return "task_list_running"
        case TaskStatus.ENQUEUED:
            return "task_list_waiting"
        case _:
            return "task_list"


def _is_filtered(chosen: TaskFilter, statement: str) -> bool:
    """Whether some of the tasks that the statement walks may not match."""
    by_type = chosen.type is not None and statement != "task_list_failed_type"
    by_status = chosen.status is not None and statement == "task_list"
    is_set = statement in ("task_list_running", "task_list_waiting")
    return by_type or by_status or is_set or chosen.queue is not None or chosen.types is not None

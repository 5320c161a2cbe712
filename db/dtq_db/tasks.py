"""Tasks, for the API: store, look up, cancel, redrive.

Calls the statements `task_*`; the SQL functions guard each transition.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias
from uuid import UUID

import asyncpg
import msgspec

from dtq.domain.errors import Unavailable
from dtq.domain.limits import RELAY_GRACE_SECONDS
from dtq.runtime.loops import acquire
from dtq_db import pages
from dtq_db.connections import ACQUIRE_SECONDS, Database, DedicatedConnection
from dtq_db.pages import FailedFilter, Page, TaskFilter
from dtq_db.queries import query

TaskRow: TypeAlias = asyncpg.Record
"""Columns of one task, by name."""


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A validated task that is about to be stored; its fields are the arguments of the statement, in order.

    Attributes:
        payload: JSON text.
        run_at: the earliest start; None means at once.
    """

    id: UUID
    type: str
    queue_set: str
    queue: str
    payload: str
    max_attempts: int
    idempotency_key: str | None = None
    run_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingTask:
    """The task that already holds an idempotency key of its type.

    Attributes:
        same: whether the stored task has the same payload; otherwise there is a conflict.
    """

    id: UUID
    status: str
    queue: str
    same: bool


async def enqueue(dedicated: DedicatedConnection, tasks: Sequence[NewTask]) -> dict[UUID, datetime]:
    """Store tasks in one statement and commit; return `updated_at` by id.

    A task that is missing from the answer met an existing idempotency key or an inactive type: call `replay`.

    Raises:
        Unavailable: the outcome is unknown.
        Rejected: `NotStorable`: a payload cannot be stored.
    """
    rows = await dedicated.fetch(query("task_enqueue"), *_columns(tasks), RELAY_GRACE_SECONDS)
    return {row["id"]: row["updated_at"] for row in rows}


async def enqueue_on(connection: "asyncpg.Connection[asyncpg.Record]", tasks: Sequence[NewTask]) -> set[UUID]:
    """Store tasks in the caller's transaction; return the ids that were stored."""
    rows = await connection.fetch(query("task_enqueue"), *_columns(tasks), 0.0)
    return {row["id"] for row in rows}


def _columns(tasks: Sequence[NewTask]) -> tuple[list[Any], ...]:
    return tuple([getattr(task, name) for task in tasks] for name in NewTask.__struct_fields__)


async def replay(dedicated: DedicatedConnection, task: NewTask) -> ExistingTask | None:
    """Return the task that holds the key of `task`, pinned if the payload is the same; None if the key is free."""
    return _existing(await dedicated.fetch(query("task_replay"), task.idempotency_key, task.type, task.payload))


async def replay_on(connection: "asyncpg.Connection[asyncpg.Record]", task: NewTask) -> ExistingTask | None:
    """Do the same in the caller's transaction; a task without a key has none."""
    return _existing(await connection.fetch(query("task_replay"), task.idempotency_key, task.type, task.payload))


def _existing(rows: list[asyncpg.Record]) -> ExistingTask | None:
    return ExistingTask(**dict(rows[0])) if rows else None


async def undo(dedicated: DedicatedConnection, ids: Sequence[UUID]) -> set[UUID]:
    """Take back tasks that the broker refused; return the deleted ones. The others run or will run."""
    rows = await dedicated.fetch(query("task_undo"), list(ids))
    return {row["id"] for row in rows}


async def confirm(dedicated: DedicatedConnection, confirmed: Mapping[UUID, datetime]) -> None:
    """Record that the broker holds a message for each of these tasks, unless they changed since `updated_at`."""
    ids = sorted(confirmed)
    await dedicated.fetch(query("task_confirm"), ids, [confirmed[id_] for id_ in ids])


LISTS_MAX: Final = 4
"""Most lists of tasks that are read at the same time: half of the pool, so that lists never delay other requests."""


class TaskStore:
    """Look-ups, and actions of a person on single tasks."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lists = asyncio.Semaphore(LISTS_MAX)

    async def get(self, id_: UUID) -> asyncpg.Record | None:
        """Return a task's row, or None."""
        return await self._one("task_get", id_)

    async def payload(self, id_: UUID) -> asyncpg.Record | None:
        """Return a task's type and its payload as JSON text, or None."""
        return await self._one("task_payload", id_)

    async def events(self, id_: UUID, limit: int) -> list[asyncpg.Record]:
        """Return the first events of a task, oldest first."""
        return await self._database.fetch(query("task_events"), id_, limit)

    async def page(self, chosen: TaskFilter, limit: int) -> Page:
        """Return one page of tasks, newest first.

        Raises:
            Unavailable: too many other lists are being read.
        """
        async with self._list():
            return await pages.page(self._database, chosen, limit)

    async def cancel(self, id_: UUID) -> asyncpg.Record | None:
        """Cancel a task or ask its worker to cancel it; return `status` and whether a cancel was `requested`."""
        return await self._one("task_cancel", id_)

    async def failed(self, chosen: FailedFilter, limit: int) -> list[UUID]:
        """Return the failed tasks that match a filter, oldest failure first.

        Raises:
            Unavailable: so many other tasks failed that no matching task was found in time, or too many other lists
                are being read.
        """
        async with self._list():
            return await pages.failed(self._database, chosen, limit)

    async def redrive(self, ids: Sequence[UUID]) -> dict[UUID, str]:
        """Redrive failed tasks; return the queue set of each task that was FAILED, by id."""
        rows = await self._database.fetch(query("task_redrive"), sorted(ids))
        return {row["id"]: row["queue_set"] for row in rows}

    async def still_failed(self, ids: Sequence[UUID], types: Sequence[str] | None = None) -> set[UUID]:
        """Return which of these tasks are FAILED and of one of these types."""
        rows = await self._database.fetch(query("task_status_many"), list(ids), types)
        return {row["id"] for row in rows}

    @asynccontextmanager
    async def _list(self) -> AsyncIterator[None]:
        if not await acquire(self._lists, ACQUIRE_SECONDS):
            raise Unavailable(f"{LISTS_MAX} lists are being read already", retry_after_seconds=1)
        try:
            yield
        finally:
            self._lists.release()

    async def _one(self, statement: str, id_: UUID) -> asyncpg.Record | None:
        rows = await self._database.fetch(query(statement), id_)
        return rows[0] if rows else None

"""Reads and writes the rows of TaskType and QueueSet, and the claims on their names, in the caller's transaction.

`dtq.domain.plan` decides what to write. Every function raises `Unavailable` when the database does not answer.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal

import asyncpg

from dtq.domain.json_text import keep_number_kinds
from dtq.domain.limits import WAITING_MAX
from dtq.domain.owners import Owner
from dtq.domain.rows import QueueRow, QueueSetRow, ScheduleRow, TaskTypeRow
from dtq_db.connections import Database
from dtq_db.queries import query

REMOVED_QUEUES_MAX: Final = 100

Kind = Literal["TaskType", "QueueSet"]


class Resources:
    """Rows and claims within one transaction."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._connection = connection

    async def claim(self, kind: Kind, key: str) -> Owner | None:
        """Return the owner of a name, locking it until the transaction ends; None if the name is free."""
        # A missing row cannot be locked, so the name itself is locked.
        await self._connection.execute(query("resource_claim_lock"), kind, key)
        return await self.owner(kind, key)

    async def owner(self, kind: Kind, key: str) -> Owner | None:
        """Return the current owner of a name, without a lock; None if the name is free."""
        row = await self._connection.fetchrow(query("resource_claim_get"), kind, key)
        return None if row is None else Owner(**dict(row))

    async def put_claim(self, kind: Kind, key: str, owner: Owner) -> None:
        """Claim a name."""
        await self._connection.execute(
            query("resource_claim_put"), kind, key, owner.uid, owner.namespace, owner.name, owner.generation
        )

    async def delete_claim(self, kind: Kind, key: str, owner: Owner) -> None:
        """Release a name if this owner still holds it."""
        await self._connection.execute(query("resource_claim_delete"), kind, key, owner.uid)

    async def task_type(self, name: str) -> TaskTypeRow | None:
        """Return a task type's row, or None."""
        rows = await self._connection.fetch(query("task_type_get"), [name])
        return _task_type(rows[0]) if rows else None

    async def put_task_type(self, row: TaskTypeRow) -> None:
        """Write a task type and its schedules."""
        await self._connection.execute(
            query("task_type_put"),
            row.type,
            row.active,
            row.default_queue,
            row.default_max_attempts,
            _json(row.payload_schema),
            row.queue_set,
            row.timeout_seconds,
            _json(row.backoff),
            row.max_payload_bytes,
            row.retention_succeeded_seconds,
            row.retention_failed_seconds,
            row.deletion_policy,
            _json(row.concurrency),
            _json(row.rate_limit),
        )
        await self._connection.execute(query("schedule_keep"), row.type, [schedule.name for schedule in row.schedules])
        for schedule in row.schedules:
            await self._connection.execute(
                query("schedule_put"),
                row.type,
                schedule.name,
                schedule.cron,
                schedule.timezone,
                _json(schedule.payload),
            )

    async def deactivate_task_type(self, name: str) -> None:
        """Refuse new tasks of a type."""
        await self._connection.execute(query("task_type_deactivate"), name)

    async def delete_task_type(self, name: str) -> None:
        """Delete an inactive type that no task refers to, as a complete `Search` has found."""
        await self._connection.execute(query("task_type_delete"), name)

    async def queue_set(self, name: str) -> QueueSetRow | None:
        """Return a queue set's row, or None."""
        row = await self._connection.fetchrow(query("queue_set_get"), name)
        if row is None:
            return None
        columns: dict[str, Any] = dict(row)
        columns["retry_delays_seconds"] = tuple(row["retry_delays_seconds"])
        columns["queues"] = tuple(QueueRow(**queue) for queue in json.loads(row["queues"]))
        return QueueSetRow(**columns)

    async def prefix_holder(self, row: QueueSetRow) -> str | None:
        """Return the name of another set with the same prefix, or None."""
        holder: str | None = await self._connection.fetchval(query("queue_set_prefix_holder"), row.namespace, row.name)
        return holder

    async def used_queues(self, name: str) -> frozenset[str]:
        """Return the queues of a set that task types refer to."""
        rows = await self._connection.fetch(query("queue_set_used_queues"), name)
        return frozenset(row["default_queue"] for row in rows)

    async def waiting(self, name: str, queue: str) -> int:
        """Return how many tasks wait in a queue, whatever they wait for: at most WAITING_MAX."""
        return int(await self._connection.fetchval(query("queue_waiting"), name, queue, WAITING_MAX))

    async def moving(self, name: str) -> dict[str, int]:
        """Return how many tasks wait in queues that a queue set no longer declares, by queue: at most WAITING_MAX.

        Only the first REMOVED_QUEUES_MAX such queues of all queue sets are examined.
        """
        rows = await self._connection.fetch(query("queue_removed"), REMOVED_QUEUES_MAX)
        return {row["queue"]: await self.waiting(name, row["queue"]) for row in rows if row["queue_set"] == name}

    async def put_queue_set(self, row: QueueSetRow) -> None:
        """Write a queue set and its queues."""
        await self._connection.execute(
            query("queue_set_put"),
            row.name,
            row.namespace,
            list(row.retry_delays_seconds),
            row.dead_letter,
            row.paused,
            row.deletion_policy,
            row.removal_queue,
        )
        await self._connection.execute(query("queue_keep"), row.name, [queue.name for queue in row.queues])
        for position, queue in enumerate(row.queues):
            await self._connection.execute(
                query("queue_put"),
                row.name,
                queue.name,
                position,
                queue.type,
                queue.max_length,
                json.dumps(queue.scaling),
            )

    async def delete_queue_set(self, name: str) -> None:
        """Delete a queue set and its queues."""
        await self._connection.execute(query("queue_set_delete"), name)


@asynccontextmanager
async def transaction(database: Database) -> AsyncIterator[Resources]:
    """Observe and write resources in one transaction."""
    async with database.acquired() as connection, connection.transaction():
        yield Resources(connection)


async def names(database: Database, kind: Kind) -> list[str]:
    """Return the names of every row of a kind."""
    statement = "task_type_names" if kind == "TaskType" else "queue_set_names"
    return [row[0] for row in await database.fetch(query(statement))]


async def task_types(database: Database) -> dict[str, TaskTypeRow]:
    """Return every task type's row, by name."""
    return {row["type"]: _task_type(row) for row in await database.fetch(query("task_type_get"), None)}


async def claims(database: Database) -> list[tuple[Kind, str, Owner]]:
    """Return every claim: kind, name and owner."""
    rows = [dict(row) for row in await database.fetch(query("resource_claim_list"))]
    return [(row.pop("kind"), row.pop("key"), Owner(**row)) for row in rows]


def _task_type(row: asyncpg.Record) -> TaskTypeRow:
    columns: dict[str, Any] = dict(row)
    for name in ("payload_schema", "backoff", "concurrency", "rate_limit"):
        columns[name] = None if row[name] is None else json.loads(row[name])
    columns["schedules"] = tuple(ScheduleRow(**schedule) for schedule in json.loads(row["schedules"]))
    return TaskTypeRow(**columns)


def _json(value: dict[str, Any] | None) -> str | None:
    return None if value is None else keep_number_kinds(json.dumps(value).encode()).decode()

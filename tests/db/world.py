"""What the database tests share: a connection, with one method for each step in the life of a task."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

import asyncpg

from dtq.domain.decisions import Decision
from dtq.domain.states import Outcome, TaskStatus
from dtq_db.attempts import Completion, finish_columns
from dtq_db.queries import query

TYPE: Final = "email.send.v1"
SET: Final = "default"
QUEUE: Final = "default"
EARLY: Final = 1.0

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


class World:
    """One connection and the statements that a process would send over it."""

    def __init__(self, connection: Connection) -> None:
        self.sql = connection

    async def declare(
        self, type_: str = TYPE, *, queue_set: str = SET, active: bool = True, max_attempts: int = 5
    ) -> None:
        await self.sql.execute(
            "INSERT INTO queue_set (name, namespace, retry_delays_seconds) VALUES ($1, $1, '{5}')"
            " ON CONFLICT DO NOTHING",
            queue_set,
        )
        await self.sql.execute(
            "INSERT INTO queue (queue_set, name, position, type) VALUES ($1, $2, 0, 'Quorum') ON CONFLICT DO NOTHING",
            queue_set,
            QUEUE,
        )
        await self.sql.execute(
            "INSERT INTO task_type (type, active, default_queue, queue_set, default_max_attempts)"
            " VALUES ($1, $2, $3, $4, $5)",
            type_,
            active,
            QUEUE,
            queue_set,
            max_attempts,
        )

    async def enqueue(
        self,
        count: int = 1,
        *,
        ids: Sequence[UUID] | None = None,
        type_: str = TYPE,
        payload: str = "{}",
        keys: Sequence[str | None] | None = None,
        max_attempts: int = 5,
        run_at: datetime | None = None,
        grace_seconds: float = 0.0,
    ) -> list[UUID]:
        """Store tasks; return the ids of those that were stored, in the order asked for."""
        asked = list(ids) if ids is not None else [uuid4() for _ in range(count)]
        size = len(asked)
        rows = await self.sql.fetch(
            query("task_enqueue"),
            asked,
            [type_] * size,
            [SET] * size,
            [QUEUE] * size,
            [payload] * size,
            [max_attempts] * size,
            list(keys) if keys is not None else [None] * size,
            [run_at] * size,
            grace_seconds,
        )
        stored = {row["id"] for row in rows}
        return [id_ for id_ in asked if id_ in stored]

    async def one(self, **how: Any) -> UUID:
        (id_,) = await self.enqueue(1, **how)
        return id_

    async def replay(self, key: str, payload: str = "{}", type_: str = TYPE) -> list[asyncpg.Record]:
        return await self.sql.fetch(query("task_replay"), key, type_, payload)

    async def undo(self, *ids: UUID) -> set[UUID]:
        return {row["id"] for row in await self.sql.fetch(query("task_undo"), list(ids))}

    async def worker(
        self, *, lease_seconds: float = 60.0, types: Sequence[str] = (TYPE,), memory: str | None = None
    ) -> UUID:
        id_ = uuid4()
        name = f"w-{secrets.token_hex(2)}"
        await self.sql.execute(
            query("worker_register"), id_, name, [QUEUE], list(types), 8, lease_seconds, None, memory
        )
        return id_

    async def run_alone(self, worker: UUID, id_: UUID, attempt: int) -> bool:
        started: bool = await self.sql.fetchval(query("task_run_alone"), worker, id_, attempt)
        return started

    async def suspect(self, reap: Callable[[], Awaitable[None]]) -> UUID:
        """Return a task whose worker was lost among others."""
        worker, id_ = await self.running()
        await self.expire(worker)
        await reap()
        return id_

    async def expire(self, worker: UUID) -> None:
        """Move the end of a lease into the past, since the clock of the database cannot be moved."""
        await self.sql.execute(
            "UPDATE workers SET lease_expires_at = clock_timestamp() - interval '1 second' WHERE id = $1", worker
        )

    async def claim(self, worker: UUID, *ids: UUID, types: Sequence[str] = (TYPE,)) -> dict[UUID, int]:
        """Claim tasks; return the attempt number of each claimed task by id."""
        rows = await self.sql.fetch(query("task_claim"), worker, sorted(set(ids)), list(types), EARLY)
        return {row["id"]: row["attempts"] for row in rows}

    async def finish(self, *ended: Completion) -> dict[UUID, str]:
        rows = await self.sql.fetch(query("task_finish"), *finish_columns(ended))
        return {row["id"]: row["status"] for row in rows}

    async def release(self, worker: UUID, *ids: UUID) -> set[UUID]:
        return {row["id"] for row in await self.sql.fetch(query("task_release"), worker, list(ids))}

    async def cancel(self, id_: UUID) -> tuple[str, bool] | None:
        row = await self.sql.fetchrow(query("task_cancel"), id_)
        return None if row is None else (row["status"], row["requested"])

    async def redrive(self, *ids: UUID) -> set[UUID]:
        return {row["id"] for row in await self.sql.fetch(query("task_redrive"), list(ids))}

    async def confirm(self, versions: dict[UUID, datetime]) -> int:
        count: int = await self.sql.fetchval(query("task_confirm"), list(versions), list(versions.values()))
        return count

    async def dead_letter(self, versions: dict[UUID, datetime]) -> int:
        count: int = await self.sql.fetchval(query("task_dead_letter"), list(versions), list(versions.values()))
        return count

    async def relay(self, limit: int = 500, hold_seconds: float = 10.0) -> list[UUID]:
        return [row["id"] for row in await self.sql.fetch(query("task_relay"), limit, hold_seconds, [])]

    async def lost(self, waiting_seconds: float = 0.0, *, queue: str = QUEUE, limit: int = 500) -> int:
        count: int = await self.sql.fetchval(query("task_lost"), SET, queue, waiting_seconds, limit)
        return count

    async def renew(self, worker: UUID, lease_seconds: float = 60.0) -> tuple[bool, list[UUID]]:
        row = await self.sql.fetchrow(query("worker_renew"), worker, lease_seconds, "{}", None)
        assert row is not None
        return row["renewed"], row["cancel_ids"]

    async def row(self, id_: UUID) -> asyncpg.Record:
        row = await self.sql.fetchrow("SELECT * FROM tasks WHERE id = $1", id_)
        assert row is not None, f"no task {id_}"
        return row

    async def version(self, id_: UUID) -> datetime:
        version: datetime = (await self.row(id_))["updated_at"]
        return version

    async def now(self) -> datetime:
        now: datetime = await self.sql.fetchval("SELECT clock_timestamp()")
        return now

    async def events(self, id_: UUID) -> list[str]:
        rows = await self.sql.fetch("SELECT event FROM task_events WHERE task_id = $1 ORDER BY at, id", id_)
        return [row["event"] for row in rows]

    async def running(self, **how: Any) -> tuple[UUID, UUID]:
        """Return a new worker and a task that it runs."""
        id_, worker = await self.one(**how), await self.worker()
        await self.claim(worker, id_)
        return worker, id_

    async def failed(self, **how: Any) -> UUID:
        worker, id_ = await self.running(**how)
        await self.finish(ending(worker, id_, 1, TaskStatus.FAILED, error="boom"))
        return id_


def ending(
    worker: UUID,
    id_: UUID,
    attempt: int,
    status: TaskStatus,
    *,
    error: str | None = None,
    result: str | None = None,
    delay_seconds: float = 0.0,
    grace_seconds: float = 0.0,
    crashed: bool = False,
    drained: bool = False,
    snoozed: bool = False,
    traceback: str | None = None,
) -> Completion:
    """Return the end of an attempt."""
    outcome = Outcome.SUCCEEDED if status is TaskStatus.SUCCEEDED else Outcome.FAILED
    decision = Decision(
        status=status,
        outcome=outcome,
        error=error,
        result=result,
        delay_seconds=delay_seconds,
        crashed=crashed,
        drained=drained,
        snoozed=snoozed,
        traceback=traceback,
    )
    return Completion(worker_id=worker, id=id_, attempt=attempt, decision=decision, grace_seconds=grace_seconds)


async def blocked(watcher: World, waiting: World) -> None:
    """Return once the other connection's statement waits for a lock."""
    pid = waiting.sql.get_server_pid()
    async with asyncio.timeout(10):
        while True:
            if await watcher.sql.fetchval("SELECT cardinality(pg_blocking_pids($1)) > 0", pid):
                return


def in_seconds(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)

"""Attempts, for the worker and the reaper: claim, finish, release, and the lease.

Calls the statements `task_claim`, `task_finish` and `worker_*`. Every write is fenced by worker and attempt.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import Decision
from dtq.domain.errors import Stale
from dtq.domain.limits import CLAIM_EARLY_SECONDS, LEASE_SECONDS
from dtq.domain.memory import Memory
from dtq.domain.stored import NewerRelease, backoff_of
from dtq.handlers import Context
from dtq_db.connections import DedicatedConnection, Dsn
from dtq_db.queries import query

LEASE_GONE: Final = "DTQ01"
"""SQLSTATE of `dtq_claim` when the worker's lease has expired."""


class Claim(msgspec.Struct, frozen=True, gc=False):
    """A task that this worker may run now, as `dtq_claim` returns it: the fields are its columns, in order.

    Attributes:
        payload: JSON text.
        attempt: from 1; with the worker it is the fence.
        timeout_seconds: how long the attempt may take.
        backoff: the type's own policy; None means the worker's default.
        slot: the concurrency slot that the task counts under while it runs; None if its type has no concurrency limit.
        uncounted: how many of its attempts the budget does not count.
        suspected_seconds: for how long it has been a suspect, which must run alone; None if it is not a suspect.
        newer: why only a newer release can run the task, which is then released; None if this release can run it.
    """

    id: UUID
    type: str
    queue_set: str
    queue: str
    payload: str
    attempt: int
    max_attempts: int
    crashes: int
    timeout_seconds: float
    backoff: Backoff | None = None
    slot: str | None = None
    uncounted: int = 0
    suspected_seconds: float | None = None
    newer: str | None = None

    @property
    def context(self) -> Context:
        """What the handler may know."""
        return Context(
            task_id=self.id,
            type=self.type,
            queue=self.queue,
            attempt=self.attempt,
            max_attempts=self.max_attempts,
            timeout_seconds=self.timeout_seconds,
        )


class Completion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of an attempt, to be written: its task, its fence, and the decision.

    Attributes:
        grace_seconds: how long after the due time the relay waits for the publisher of a retry.
    """

    worker_id: UUID
    id: UUID
    attempt: int
    decision: Decision
    grace_seconds: float = 0.0


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The result of a write: the task's new status and the row's version."""

    status: str
    updated_at: datetime


@lru_cache(maxsize=1024)
def parse_backoff(text: str | None) -> Backoff | None:
    """Return the policy that a row of `task_type` holds, or None.

    Raises:
        NewerRelease: only a newer release understands it.
    """
    return None if text is None else backoff_of(json.loads(text))


async def claim(
    dedicated: DedicatedConnection, worker_id: UUID, ids: Collection[UUID], types: Collection[str]
) -> list[Claim]:
    """Claim the claimable tasks of `ids`; the others are duplicates, finished, or left to the relay.

    Args:
        dedicated: where it runs.
        worker_id: who claims.
        ids: each once.
        types: the types that the worker handles, or of these at least those that the messages name.

    Raises:
        Stale: the worker's lease is lost.
        Unavailable: whether the claims took effect is unknown: later, `release` the tasks that were not started.
    """
    try:
        rows = await dedicated.fetch(query("task_claim"), worker_id, list(ids), list(types), CLAIM_EARLY_SECONDS)
    except asyncpg.PostgresError as error:
        if error.sqlstate == LEASE_GONE:
            raise Stale(str(error)) from error
        raise
    return [_claim(row) for row in rows]


_BACKOFF: Final = Claim.__struct_fields__.index("backoff")


def _claim(row: asyncpg.Record) -> Claim:
    if row["backoff"] is None:
        return Claim(*row)
    columns = list(row)
    try:
        columns[_BACKOFF] = parse_backoff(row["backoff"])
    except NewerRelease as error:
        columns[_BACKOFF] = None
        columns.append(str(error))
    return Claim(*columns)


async def run_alone(dedicated: DedicatedConnection, worker_id: UUID, claim: Claim) -> bool:
    """Record that a suspect starts now and that its worker runs nothing else; return False if it was taken away.

    Raises:
        Unavailable: the outcome is unknown; asking again is safe.
    """
    (row,) = await dedicated.fetch(query("task_run_alone"), worker_id, claim.id, claim.attempt)
    return bool(row[0])


async def finish(dedicated: DedicatedConnection, ended: Sequence[Completion]) -> dict[UUID, Finished]:
    """Record the end of attempts; a task that is missing from the answer was lost to another worker.

    Raises:
        Unavailable: whether it took effect is unknown; the fence makes asking again safe.
        Rejected: `NotStorable`: a result cannot be stored.
    """
    rows = await dedicated.fetch(query("task_finish"), *finish_columns(ended))
    return {row["id"]: Finished(row["status"], row["updated_at"]) for row in rows}


def finish_columns(ended: Sequence[Completion]) -> tuple[list[Any], ...]:
    """Return the arguments of the statement `task_finish`."""
    return (
        [completion.worker_id for completion in ended],
        [completion.id for completion in ended],
        [completion.attempt for completion in ended],
        [str(completion.decision.status) for completion in ended],
        [completion.decision.result for completion in ended],
        [completion.decision.error for completion in ended],
        [completion.decision.delay_seconds for completion in ended],
        [completion.grace_seconds for completion in ended],
        [completion.decision.crashed for completion in ended],
        [completion.decision.drained for completion in ended],
        [completion.decision.traceback for completion in ended],
        [completion.decision.snoozed for completion in ended],
        [completion.decision.suspected for completion in ended],
    )


async def release(dedicated: DedicatedConnection, worker_id: UUID, ids: Collection[UUID]) -> int:
    """Give back claims that never started, without counting the attempts; return how many there were.

    Raises:
        Unavailable: the outcome is unknown; asking again is safe.
    """
    return len(await dedicated.fetch(query("task_release"), worker_id, sorted(ids)))


async def dead_lettered(dedicated: DedicatedConnection, versions: dict[UUID, datetime]) -> int:
    """Record that the broker confirmed the dead-letter copies of these tasks; return how many were newly recorded."""
    ids = sorted(versions)
    (row,) = await dedicated.fetch(query("task_dead_letter"), ids, [versions[id_] for id_ in ids])
    return int(row["noted"])


class LeaseStore:
    """The worker's own row, on a dedicated connection that nothing else can block."""

    def __init__(self, dsn: Dsn) -> None:
        self._dedicated = DedicatedConnection(dsn, name="dtq-worker/lease")

    async def register(
        self,
        worker_id: UUID,
        *,
        name: str,
        namespace: str,
        queues: Sequence[str],
        types: Sequence[str],
        concurrency: int,
        memory: Memory | None = None,
    ) -> None:
        """Register a lease for a worker that consumes `queues` with the prefix `namespace`.

        Raises:
            Unavailable: the database does not answer.
        """
        told = None if memory is None else json.dumps(asdict(memory))
        await self._dedicated.fetch(
            query("worker_register"),
            worker_id,
            name,
            list(queues),
            list(types),
            concurrency,
            LEASE_SECONDS,
            namespace,
            told,
        )

    async def renew(self, worker_id: UUID, running: Mapping[str, int], memory: Memory | None = None) -> list[UUID]:
        """Renew the lease, and report the running tasks by `queue set/queue` and the memory report.

        Returns:
            The tasks to cancel.

        Raises:
            Stale: the lease has expired and cannot be renewed.
            Unavailable: the database does not answer.
        """
        told = None if memory is None else json.dumps(asdict(memory))
        (row,) = await self._dedicated.fetch(query("worker_renew"), worker_id, LEASE_SECONDS, json.dumps(running), told)
        if not row["renewed"]:
            raise Stale(f"the lease of worker {worker_id} expired")
        return list(row["cancel_ids"])

    async def expire(self, worker_id: UUID) -> None:
        """End the lease: tasks that the worker still holds may be taken back at once."""
        await self._dedicated.fetch(query("worker_expire"), worker_id)

    async def close(self) -> None:
        """Close the connection."""
        await self._dedicated.close()

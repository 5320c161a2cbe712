"""The statements of the maintenance roles: relay, reaper, pruner, scheduler, mover. Each call is one bounded batch.

Every function raises `Unavailable` when the database does not answer.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from typing import Final
from uuid import UUID

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import Attempt
from dtq.domain.limits import RELAY_GRACE_SECONDS
from dtq.domain.memory import cause_of_death, parse_memory
from dtq.domain.states import Outcome
from dtq.domain.stored import NewerRelease
from dtq.runtime import failpoints
from dtq_db.attempts import Completion, dead_lettered, finish_columns, parse_backoff
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.queries import query
from dtq_db.tasks import NewTask, enqueue_on

RELAY_BATCH: Final = 2_000
"""Most tasks of one queue that a relay picks at once, so that a burst is published in large windows."""
BATCH: Final = 500
"""Rows per statement of a loop: enough to be cheap, few enough to be quick."""
FIRST_ID: Final = UUID(int=0)
EPOCH: Final = datetime.fromtimestamp(0, UTC)
FIRST_SCHEDULE: Final = ("", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class DueTask:
    """A task to be published; `updated_at` is the version that a confirm refers to."""

    id: UUID
    type: str
    queue_set: str
    queue: str
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphanedTask:
    """A task that an expired worker still holds: its fence, and its attempt, which ended with the worker."""

    worker_id: UUID
    id: UUID
    ended: Attempt
    backoff: Backoff | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DueSchedule:
    """A cron entry that is due, or that is new (`next_fire_at` is None). `now` is the database's clock."""

    type: str
    name: str
    cron: str
    timezone: str
    payload: str
    next_fire_at: datetime | None
    now: datetime
    active: bool
    queue_set: str
    default_queue: str
    default_max_attempts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The work that is due.

    Attributes:
        revision: the revision of the catalog.
        publish: tasks are due to be published.
        unblock: tasks wait for room under a limit.
        dead_letter: copies of failed tasks are due to be published.
        reap: a worker's lease has expired.
        fire: a cron entry is due.
        next_seconds: when the next of these is due as far as is known now, in seconds; None if nothing is planned.
    """

    revision: int
    publish: bool
    unblock: bool
    dead_letter: bool
    reap: bool
    fire: bool
    next_seconds: float | None

    def is_relay_due(self) -> bool:
        """Whether the relay has work."""
        return self.publish or self.unblock or self.dead_letter

    @property
    def quiet_seconds(self) -> float:
        """How long nothing of this is due, in seconds, unless work is added."""
        if self.unblock:
            return 0.0
        return inf if self.next_seconds is None else max(0.0, self.next_seconds)


async def look(dedicated: DedicatedConnection) -> Work:
    """Return the due work, with one cheap statement."""
    (row,) = await dedicated.fetch(query("maintenance_due"), RELAY_GRACE_SECONDS)
    return Work(**dict(row))


async def relay(dedicated: DedicatedConnection, hold_seconds: float, *, without: Sequence[str] = ()) -> list[DueTask]:
    """Pick tasks that are due to be published, up to RELAY_BATCH per queue, and hide them from other relays.

    Args:
        dedicated: the relay's connection.
        hold_seconds: how long the tasks stay hidden.
        without: queue sets that cannot be published to now.
    """
    rows = await dedicated.fetch(query("task_relay"), RELAY_BATCH, hold_seconds, list(without))
    return [DueTask(**dict(row)) for row in rows]


async def blocked_slots(dedicated: DedicatedConnection, after: str) -> list[str]:
    """Return up to BATCH slots after `after` in which tasks wait for room, in order."""
    return [row["slot"] for row in await dedicated.fetch(query("slot_blocked"), after, BATCH)]


async def unblock(dedicated: DedicatedConnection, slots: Sequence[str], hold_seconds: float) -> list[DueTask]:
    """Pick tasks that wait in these slots and have room now, and hide them from relays for `hold_seconds`."""
    rows = await dedicated.fetch(query("task_unblock"), list(slots), BATCH, hold_seconds)
    return [DueTask(**dict(row)) for row in rows]


async def dead_letter(
    dedicated: DedicatedConnection,
    age_seconds: float,
    publish: Callable[[list[DueTask]], Awaitable[dict[UUID, datetime]]],
    *,
    without: Sequence[str] = (),
) -> int:
    """Publish the overdue copies of failed tasks; return how many the broker confirmed.

    The tasks are held meanwhile, so that two relays do not publish the same copy.

    Args:
        dedicated: the relay's connection.
        age_seconds: how long the original publisher has to publish the copy, and how long a copy is held.
        publish: returns `updated_at` by id of the tasks whose copy the broker confirmed.
        without: queue sets that cannot be published to now.
    """
    rows = await dedicated.fetch(query("task_dead_letter_due"), age_seconds, BATCH, list(without))
    confirmed = await publish([DueTask(**dict(row)) for row in rows]) if rows else {}
    return await dead_lettered(dedicated, confirmed) if confirmed else 0


async def dead_letters_lost(dedicated: DedicatedConnection | Database, queue_set: str) -> int:
    """Mark every copy of a lost dead letter queue to be published again; return how many."""
    count, after, last = 0, EPOCH, FIRST_ID
    while rows := await dedicated.fetch(query("task_dead_letter_lost"), queue_set, after, last, BATCH):
        count += rows[0]["marked"]
        after, last = rows[0]["failed_at"], rows[0]["id"]
    return count


async def lost(dedicated: DedicatedConnection, queue_set: str, queue: str, waiting_seconds: float) -> int:
    """Mark confirmed tasks that have waited longer than `waiting_seconds` to be published again; return how many.

    A negative `waiting_seconds` includes tasks that are due later, for a lost retry queue.
    """
    ((count,),) = await dedicated.fetch(query("task_lost"), queue_set, queue, waiting_seconds, BATCH)
    return int(count)


async def removed_queues(dedicated: DedicatedConnection) -> list[tuple[str, str]]:
    """Return queue set and name of queues that hold waiting tasks but are no longer declared."""
    return [(row["queue_set"], row["queue"]) for row in await dedicated.fetch(query("queue_removed"), BATCH)]


async def move(dedicated: DedicatedConnection, queue_set: str, queue: str) -> int:
    """Move one batch of waiting tasks out of a queue that is no longer declared; return how many."""
    ((count,),) = await dedicated.fetch(query("task_move"), queue_set, queue, BATCH)
    return int(count)


async def reap(
    dedicated: DedicatedConnection, decide: Callable[[OrphanedTask], Completion]
) -> tuple[Counter[str], bool]:
    """Take back tasks of one expired worker; return how many by new status, and whether more may be left."""
    async with dedicated.transaction() as connection:
        expired = await connection.fetch(query("worker_expired_lock"))
        if not expired:
            return Counter(), False
        worker_id = expired[0]["id"]
        cause = cause_of_death(parse_memory(expired[0]["memory"]), expired[0]["oom_kills_since"])
        rows = await connection.fetch(query("worker_running"), worker_id, BATCH)
        ended = []
        for row in rows:
            columns = dict(row)
            id_, backoff = columns.pop("id"), _backoff(columns.pop("backoff"))
            attempt = Attempt(outcome=Outcome.LOST, neighbours=len(rows) - 1, cause=cause, **columns)
            ended.append(decide(OrphanedTask(worker_id=worker_id, id=id_, ended=attempt, backoff=backoff)))
        taken = await connection.fetch(query("task_finish"), *finish_columns(ended))
        if taken:
            await failpoints.hit("reap.written")
        if len(rows) < BATCH:
            await connection.execute(query("worker_reaped"), worker_id)
        return Counter(row["status"] for row in taken), True


async def prune(dedicated: DedicatedConnection) -> tuple[int, bool]:
    """Make one step of deleting expired tasks; return how many were deleted and whether more may be left."""
    (row,) = await dedicated.fetch(query("task_prune"), BATCH)
    return int(row["dropped"]), bool(row["more"])


def _backoff(text: str | None) -> Backoff | None:
    """Return a type's back-off; None (the default) if only a newer release understands it."""
    try:
        return parse_backoff(text)
    except NewerRelease:
        return None


async def prune_workers(database: Database) -> None:
    """Delete workers that ended long ago."""
    await database.fetch(query("worker_prune"))


async def rotate_events(database: Database, *, days_ahead: int, keep_days: int) -> list[str]:
    """Create the next partitions of the history and drop the old ones; return the names of the dropped partitions."""
    await database.fetch(query("event_partitions_create"), days_ahead)
    ((dropped,),) = await database.fetch(query("event_partitions_drop"), keep_days)
    return list(dropped)


async def replan(
    dedicated: DedicatedConnection, after: tuple[str, str], limit: int, plan: Callable[[DueSchedule], datetime]
) -> tuple[tuple[str, str], list[tuple[str, str]]]:
    """Plan cron entries after `after` for the earlier of the stored time and the time that `plan` returns.

    Returns:
        Where to continue (at the end: the beginning), and the type and name of each entry that is due earlier now.
    """
    rows = await dedicated.fetch(query("schedule_ahead"), *after, limit)
    earlier = []
    for row in rows:
        due = DueSchedule(**dict(row))
        following = plan(due)
        if due.next_fire_at is not None and following < due.next_fire_at:
            moved = await dedicated.fetch(query("schedule_earlier"), due.type, due.name, following)
            earlier += [(row["type"], row["name"]) for row in moved]
    return (rows[-1]["type"], rows[-1]["name"]) if len(rows) == limit else FIRST_SCHEDULE, earlier


async def fire(
    dedicated: DedicatedConnection, plan: Callable[[DueSchedule], tuple[NewTask | None, datetime]]
) -> tuple[Sequence[str], bool]:
    """Enqueue the tasks of due cron entries and set their next time, in one transaction.

    Returns:
        The types of the enqueued tasks, and whether more entries may be due.
    """
    async with dedicated.transaction() as connection:
        rows = await connection.fetch(query("schedule_due"), BATCH)
        tasks: list[NewTask] = []
        for row in rows:
            due = DueSchedule(**dict(row))
            task, following = plan(due)
            if task is not None:
                tasks.append(task)
            await connection.execute(query("schedule_next"), due.type, due.name, following)
        stored = await enqueue_on(connection, tasks) if tasks else set()
        if stored:
            await failpoints.hit("scheduler.fired")
        return [task.type for task in tasks if task.id in stored], len(rows) == BATCH

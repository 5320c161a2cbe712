"""The maintenance loops: relay, reaper, pruner, topology watch. Any number of replicas may run them.

Owns one bounded step of each. Must never hold a leader's role: rows are locked with SKIP LOCKED instead.
"""

import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog

from dtq.broker.inspect import ready_counts
from dtq.broker.publisher import Message, Publisher
from dtq.broker.wakeups import dead_letter, work
from dtq.domain.backoff import Backoff
from dtq.domain.decisions import Attempt, decide
from dtq.domain.errors import Unavailable
from dtq.domain.limits import RELAY_GRACE_SECONDS, RELAY_LOST_SECONDS
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.memory import cause_of_death
from dtq.domain.states import Outcome
from dtq.domain.topology import work_queue
from dtq.runtime import failpoints
from dtq.runtime.metrics import ApiMetrics
from dtq_db import catalog, upkeep
from dtq_db.attempts import Finish
from dtq_db.connections import Database
from dtq_db.upkeep import BATCH, RELAY_BATCH, Due, Held

RELAY_SECONDS: Final = 0.5
"""Pause of the relay, in seconds: how late a scheduled task may start."""
REAP_SECONDS: Final = 2.0
"""Pause of the reaper, in seconds."""
MOVE_SECONDS: Final = 5.0
"""Pause of the mover, in seconds: how long a task stays in a queue that was removed."""
HAND_BACK_SECONDS: Final = 3.0
"""How long after an outage of Postgres workers have to hand back what they stopped, in seconds."""
PRUNE_SECONDS: Final = 60.0
"""Pause of the pruner, in seconds, once nothing is due any more."""
WATCH_SECONDS: Final = 15.0
"""Pause between two looks at the topology, in seconds: how long a queue deleted by hand may be gone."""
EVENT_DAYS_AHEAD: Final = 7
"""Daily partitions kept ready, in days: a week without a pruner costs nothing."""

_log = structlog.get_logger(__name__)

NamespaceOf = Callable[[str], str]


class Relay:
    """Publishes what is stored and due but not yet published, and the dead letters that are missing.

    Args:
        closed: returns the names of the queue sets that RabbitMQ refuses: their tasks wait.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        namespace_of: NamespaceOf,
        confirmed: Callable[[dict[UUID, datetime]], None],
        closed: Callable[[], list[str]],
        metrics: ApiMetrics,
    ) -> None:
        self._lane = database.lane("relay")
        self._confirmed = confirmed
        self._publisher = publisher
        self._namespace_of = namespace_of
        self._closed = closed
        self._metrics = metrics
        self._after_slot = ""

    async def once(self) -> bool:
        """Publish one batch; return whether there may be more.

        Raises:
            Unavailable: database or broker do not answer; the rows stay due.
        """
        await self._publisher.check()
        closed = self._closed()
        due = await upkeep.relay(self._lane, hold_seconds=2 * RELAY_GRACE_SECONDS, without=closed)
        due += await self._unblocked()
        if due:
            await failpoints.hit("relay.picked")
        confirmed = await self._publish(due, work)
        if confirmed:
            await failpoints.hit("relay.published")
            self._confirmed(confirmed)
            self._metrics.relayed.inc(len(confirmed))
            await failpoints.hit("relay.confirmed")
        noted = await upkeep.dead_letter(self._lane, RELAY_GRACE_SECONDS, self._publish_dead_letters, without=closed)
        self._metrics.dead_lettered.inc(noted)
        return len(due) >= RELAY_BATCH

    async def _unblocked(self) -> list[Due]:
        """Pick tasks for which a limit has room again; each call goes on where the last one stopped."""
        slots = await upkeep.blocked_slots(self._lane, self._after_slot)
        self._after_slot = slots[-1] if len(slots) == BATCH else ""
        return await upkeep.unblock(self._lane, slots, hold_seconds=2 * RELAY_GRACE_SECONDS) if slots else []

    async def _publish_dead_letters(self, overdue: list[Due]) -> dict[UUID, datetime]:
        confirmed = await self._publish(overdue, dead_letter)
        await failpoints.hit("relay.dead_letters_published")
        return confirmed

    async def _publish(self, due: list[Due], message: Callable[[str, str, UUID, str], Message]) -> dict[UUID, datetime]:
        messages = [message(self._namespace_of(one.queue_set), one.queue, one.id, one.type) for one in due]
        results = await self._publisher.publish(messages)
        return {one.id: one.updated_at for one, refused in zip(due, results, strict=True) if refused is None}


class Mover:
    """Moves tasks out of queues that their set declares no longer: they waited there, came late, or are retried."""

    def __init__(self, database: Database) -> None:
        self._lane = database.lane("mover")

    async def once(self) -> bool:
        """Move one batch out of each such queue; return whether there may be more.

        Raises:
            Unavailable: the database does not answer.
        """
        more = False
        for queue_set, queue in await upkeep.removed_queues(self._lane):
            moved = await upkeep.move(self._lane, queue_set, queue)
            if moved:
                _log.info("tasks moved out of a removed queue", queue_set=queue_set, queue=queue, tasks=moved)
            more = more or moved == BATCH
        return more


class Reaper:
    """Takes back the tasks of workers whose lease expired.

    After an outage of Postgres every lease has expired and hardly any worker is lost. It waits then, until those that
    are alive have handed back themselves what they stopped, so that none of it is suspected.
    """

    def __init__(self, database: Database, *, backoff: Backoff, metrics: ApiMetrics) -> None:
        self._lane = database.lane("reaper")
        self._backoff = backoff
        self._metrics = metrics
        self._database = database
        self._was_away = False
        self._not_before = 0.0

    async def once(self) -> bool:
        """Take back one batch of one worker; return whether there may be more.

        Raises:
            Unavailable: the database does not answer.
        """
        if self._was_away:
            await catalog.revision(self._database)
            self._was_away, self._not_before = False, time.monotonic() + HAND_BACK_SECONDS
        if time.monotonic() < self._not_before:
            return False
        try:
            taken, more = await upkeep.reap(self._lane, self._lost)
        except Unavailable:
            self._was_away = True
            raise
        if taken:
            await failpoints.hit("reap.committed")
            for status, count in taken.items():
                self._metrics.reaped.labels(status).inc(count)
            _log.warning("tasks taken back from a lost worker", tasks=taken.total())
        return more

    def _lost(self, held: Held) -> Finish:
        ended = Attempt(
            outcome=Outcome.LOST,
            attempt=held.attempt,
            max_attempts=held.max_attempts,
            crashes=held.crashes,
            uncounted=held.uncounted,
            alone=held.alone,
            neighbours=held.neighbours,
            suspected_seconds=held.suspected_seconds,
            cause=cause_of_death(held.memory, held.oom_kills_since),
        )
        decision = decide(ended, held.backoff or self._backoff, random.random())  # noqa: S311
        return Finish(worker_id=held.worker_id, id=held.id, attempt=held.attempt, decision=decision)


class Pruner:
    """Drops finished tasks after their retention, old history, and workers that ended long ago."""

    def __init__(self, database: Database, *, events_retention_days: int, metrics: ApiMetrics) -> None:
        self._database = database
        self._lane = database.lane("pruner")
        self._keep_days = events_retention_days
        self._metrics = metrics
        self._is_walking = False

    async def once(self) -> bool:
        """Prune one batch; return whether the walk goes on.

        Raises:
            Unavailable: the database does not answer.
        """
        if not self._is_walking:
            dropped = await upkeep.rotate_events(self._database, days_ahead=EVENT_DAYS_AHEAD, keep_days=self._keep_days)
            if dropped:
                _log.info("history dropped", partitions=dropped)
            await upkeep.prune_workers(self._database)
        pruned, self._is_walking = await upkeep.prune(self._lane)
        if pruned:
            await failpoints.hit("prune.committed")
        self._metrics.pruned.inc(pruned)
        return self._is_walking


class TopologyWatch:
    """Declares what is missing, and finds tasks whose message the broker no longer holds."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        queue_sets: Callable[[], Mapping[str, QueueSetSpec]],
        metrics: ApiMetrics,
    ) -> None:
        self._lane = database.lane("watch")
        self._publisher = publisher
        self._queue_sets = queue_sets
        self._metrics = metrics

    async def once(self) -> bool:
        """Look once; return False.

        Raises:
            Unavailable: database or broker do not answer.
        """
        await self._publisher.declare()
        trouble: Unavailable | None = None
        for name, spec in self._queue_sets().items():
            try:
                await self._look(name, spec)
            except Unavailable as error:  # one queue set that tells nothing keeps no other waiting
                trouble = error
        if trouble is not None:
            raise trouble
        return False

    async def _look(self, name: str, spec: QueueSetSpec) -> None:
        names = {work_queue(spec.namespace, queue.name): queue.name for queue in spec.queues}
        for broker_name, ready in (await ready_counts(self._publisher.link, list(names))).items():
            if ready == 0:
                await self.find_lost(name, names[broker_name], RELAY_LOST_SECONDS)

    async def find_lost(self, queue_set: str, queue: str, waiting_seconds: float) -> None:
        """Have the confirmed tasks of a queue published again that the broker no longer holds."""
        while count := await upkeep.lost(self._lane, queue_set, queue, waiting_seconds):
            await failpoints.hit("relay.lost_marked")
            self._metrics.lost.inc(count)
            _log.warning("tasks lost by the broker are published again", queue=queue, tasks=count)
            if count < BATCH:
                return

    async def recall_dead_letters(self, queue_set: str) -> None:
        """Have the copy of every failed task published again: the dead letter queue was lost."""
        if count := await upkeep.dead_letters_lost(self._lane, queue_set):
            _log.warning("dead letters lost by the broker are published again", queue_set=queue_set, tasks=count)

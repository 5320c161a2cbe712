"""Dead letters: after a redrive, removes the copies of the redriven tasks from the dead letter queues."""

import asyncio
from collections.abc import Iterable
from typing import Final
from uuid import UUID

import structlog

from dtq.broker.dead_letters import drop_spent
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from dtq.domain.queue_sets import QueueSets
from dtq.domain.topology import dead_letter_queue
from dtq.runtime import failpoints
from dtq_db.connections import Database
from dtq_db.tasks import TaskStore

DROP_SECONDS: Final = 1.0
"""Pause between two checks for queue sets that could not be walked yet, in seconds."""

_log = structlog.get_logger(__name__)


class DeadLetters:
    """Removes the copies of tasks that are no longer FAILED.

    Every queue set is walked once at the start: a replica may have died after committing a redrive and before its walk.
    """

    def __init__(self, database: Database, publisher: Publisher, *, queue_sets: QueueSets) -> None:
        self._tasks = TaskStore(database)
        self._publisher = publisher
        self._queue_sets = queue_sets
        self._redriven: set[str] = set()
        self._has_begun = False
        self.wake = asyncio.Event()
        """Set when there is a queue set to walk."""

    def redriven(self, queue_sets: Iterable[str]) -> None:
        """Walk the dead letter queues of these sets soon."""
        self._redriven.update(queue_sets)
        self.wake.set()

    async def once(self) -> bool:
        """Walk the dead letter queues of the sets that were redriven; return False.

        Raises:
            Unavailable: database or broker do not answer; the next call continues.
        """
        if not self._has_begun and self._publisher.broker.is_up and self._queue_sets:
            self._redriven.update(name for name, spec in self._queue_sets.items() if spec.dead_letter.enabled)
            self._has_begun = True
        while self._redriven:
            name = self._redriven.pop()
            if (spec := self._queue_sets.get(name)) is None:
                continue
            try:
                dropped = await drop_spent(self._publisher.broker, dead_letter_queue(spec.namespace), self._spent)
            except Unavailable:
                self._redriven.add(name)
                raise
            if dropped:
                await failpoints.hit("redrive.dropped")
                _log.info("redriven dead letters dropped", namespace=spec.namespace, tasks=dropped)
        return False

    async def _spent(self, ids: list[UUID]) -> set[UUID]:
        return set(ids) - await self._tasks.still_failed(ids)

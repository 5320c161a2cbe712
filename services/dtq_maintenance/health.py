"""Health: what is wrong with the database and the broker, by part, as text.

This decides readiness, not liveness: an outage of Postgres or RabbitMQ must not restart any process.
"""

import asyncio
import time
from typing import Final

import structlog

from dtq.broker.admin import ready_counts
from dtq.broker.publisher import Publisher
from dtq.broker.topology_declarer import TopologyDeclarer
from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.queue_sets import QueueSets
from dtq.domain.topology import dead_letter_queue, work_queue
from dtq_db.connections import Database, is_read_only

CACHE_SECONDS: Final = 1.0
"""How long a result is reused, in seconds: the probes of many processes must not load the services."""
CHECK_SECONDS: Final = 1.5
"""Longest check of one part, in seconds."""
READ_ONLY: Final = "read-only: a standby, or a failover in progress"

_log = structlog.get_logger(__name__)


class Health:
    """Checks database and broker, at most once in CACHE_SECONDS."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        declarer: TopologyDeclarer,
        *,
        queue_sets: QueueSets,
    ) -> None:
        self._database = database.dedicated("health")  # requests that use up the pool must not make probes fail
        self._publisher = publisher
        self._declarer = declarer
        self._queue_sets = queue_sets
        self._checking = asyncio.Lock()
        self._checked_at = float("-inf")
        self._wrong: dict[str, str] = {}

    async def everything(self) -> dict[str, str]:
        """Return what is wrong with database and topology."""
        async with self._checking:
            if time.monotonic() - self._checked_at > CACHE_SECONDS:
                database, broker = await asyncio.gather(self._database_trouble(), self._broker_trouble())
                wrong = ({"db": database} if database else {}) | broker
                if wrong.keys() != self._wrong.keys():
                    _log.info("health changed", wrong=wrong)
                self._wrong = wrong
                self._checked_at = time.monotonic()
            return self._wrong

    async def ready(self) -> dict[str, str]:
        """Return what makes this replica unready: only the database, since most routes need no broker.

        A read-only database does not: it answers reads, and the other replicas use the same database.
        """
        wrong = await self.everything()
        return {part: trouble for part, trouble in wrong.items() if part == "db" and trouble != READ_ONLY}

    async def _database_trouble(self) -> str:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                if await is_read_only(self._database):
                    return READ_ONLY
        except TimeoutError:
            return "down: no answer in time"
        except Unavailable as error:
            return f"down: {error}"
        return ""

    async def _broker_trouble(self) -> dict[str, str]:
        """Return what is wrong with RabbitMQ as `rmq`, or with single queue sets as `queue_set/<name>`."""
        found: dict[str, str] = {}
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                self._publisher.check()
                for name, spec in self._queue_sets.items():
                    if trouble := await self._queue_set_trouble(name, spec):
                        found[f"queue_set/{name}"] = trouble
        except TimeoutError:
            return {"rmq": "down: no answer in time"}
        except Unavailable as error:
            return {"rmq": f"down: {error}"}
        return found

    async def _queue_set_trouble(self, name: str, spec: QueueSetSpec) -> str:
        if (reason := self._declarer.refused.get(name)) is not None:
            return f"not declared: {reason}"
        names = [*(work_queue(spec.namespace, queue.name) for queue in spec.queues), dead_letter_queue(spec.namespace)]
        counts = await ready_counts(self._publisher.broker, names)
        if missing := [name for name, count in counts.items() if count is None]:
            return f"queue missing: {', '.join(missing)}"
        if mismatched := self._declarer.mismatched.get(name):
            return f"exists with other arguments: {', '.join(sorted(mismatched))}"
        return ""

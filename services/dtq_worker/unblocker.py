"""The unblocker: publishes the next task that waits for a slot of a limited task type once the slot is free.

This is only a hint and may be lost: the relay looks for room too, and the claim decides.
"""

from collections.abc import Collection

import structlog

from dtq.broker.messages import work
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from dtq.domain.limits import RELAY_GRACE_SECONDS
from dtq.domain.queue_sets import QueueSets
from dtq_db import maintenance
from dtq_db.connections import DedicatedConnection
from dtq_db.tasks import confirm

_log = structlog.get_logger(__name__)


class Unblocker:
    """Publishes tasks that waited for a slot."""

    def __init__(self, dedicated: DedicatedConnection, publisher: Publisher, *, queue_sets: QueueSets) -> None:
        self._dedicated = dedicated
        self._publisher = publisher
        self._queue_sets = queue_sets

    async def freed(self, slots: Collection[str]) -> None:
        """Publish the tasks that wait for these slots and have room; the relay repairs failures."""
        try:
            due = await maintenance.unblock(self._dedicated, sorted(slots), RELAY_GRACE_SECONDS)
            known = [(task, spec) for task in due if (spec := self._queue_sets.get(task.queue_set)) is not None]
            results = await self._publisher.publish(
                [work(spec.namespace, task.queue, task.id, task.type) for task, spec in known]
            )
            confirmed = {
                task.id: task.updated_at for (task, _), refused in zip(known, results, strict=True) if refused is None
            }
            if confirmed:
                await confirm(self._dedicated, confirmed)
        except Unavailable as error:
            _log.warning("unblock failed", slots=len(slots), reason=str(error))

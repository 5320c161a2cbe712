"""The unblocker: once a slot of a limited task type is free, the next task that waits for it goes on its way.

Owns the hint. It may be lost: the relay looks for room too, and only the claim decides.
"""

from collections.abc import Collection

import structlog

from dtq.broker.publisher import Publisher
from dtq.broker.wakeups import work
from dtq.domain.errors import Unavailable
from dtq.domain.limits import RELAY_GRACE_SECONDS
from dtq.domain.queue_sets import QueueSets
from dtq_db import upkeep
from dtq_db.connections import Lane
from dtq_db.tasks import confirm

_log = structlog.get_logger(__name__)


class Unblocker:
    """Publishes what waited for a slot."""

    def __init__(self, lane: Lane, publisher: Publisher, *, queue_sets: QueueSets) -> None:
        self._lane = lane
        self._publisher = publisher
        self._queue_sets = queue_sets

    async def freed(self, slots: Collection[str]) -> None:
        """Wake the tasks that wait for these slots, as far as there is room; what fails is left to the relay."""
        try:
            due = await upkeep.unblock(self._lane, sorted(slots), RELAY_GRACE_SECONDS)
            known = [(one, spec) for one in due if (spec := self._queue_sets.get(one.queue_set)) is not None]
            results = await self._publisher.publish(
                [work(spec.namespace, one.queue, one.id, one.type) for one, spec in known]
            )
            confirmed = {
                one.id: one.updated_at for (one, _), refused in zip(known, results, strict=True) if refused is None
            }
            if confirmed:
                await confirm(self._lane, confirmed)
        except Unavailable as error:
            _log.warning("waiting tasks are left to the relay", slots=len(slots), reason=str(error))

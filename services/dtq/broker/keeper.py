"""The keeper: makes sure that the broker holds the topology of every queue set, whenever it is asked.

Owns "declare, and report what was missing". Shared by API and worker, so that a queue deleted by hand comes
back without a restart. Must never delete anything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiormq.abc import AbstractConnection

from dtq.broker.declare import Declared, declare
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.topology import dead_letter_queue, topology_of
from dtq.runtime.metrics import BrokerMetrics

_log = structlog.get_logger(__name__)

OnLost = Callable[[str, str], Awaitable[None]]
"""Called with queue set and queue whose messages are gone."""
OnDeadLettersLost = Callable[[str], Awaitable[None]]
"""Called with the queue set whose dead letters are gone."""


class Keeper:
    """Declares the queue sets that `queue_sets` returns, by name.

    Args:
        on_lost: what held messages was missing: its tasks must be published again.
        on_dead_letters_lost: so was what held dead letters.
    """

    def __init__(
        self,
        *,
        queue_sets: Callable[[], Mapping[str, QueueSetSpec]],
        on_lost: OnLost,
        on_dead_letters_lost: OnDeadLettersLost,
        metrics: BrokerMetrics,
    ) -> None:
        self._queue_sets = queue_sets
        self._on_lost = on_lost
        self._on_dead_letters_lost = on_dead_letters_lost
        self._metrics = metrics
        self._unrepaired: dict[str, set[str]] = {}
        self._one_at_a_time = asyncio.Lock()
        self.mismatched: dict[str, str] = {}
        """Why, by the name of each exchange or queue that exists with other arguments."""

    async def declare(self, connection: AbstractConnection) -> None:
        """Make the broker hold every queue set's topology.

        Raises:
            Unavailable: the broker refuses us the right to declare; once it is granted, the next try passes.
        """
        async with self._one_at_a_time:
            mismatched: dict[str, str] = {}
            for name, spec in self._queue_sets().items():
                found = Declared()
                try:
                    await declare(connection, topology_of(spec), found)
                except Rejected as error:
                    raise Unavailable(str(error)) from error
                finally:
                    self._note(name, found)
                mismatched |= found.mismatched
                await self._repair(name, spec)
            self.mismatched = mismatched

    def _note(self, name: str, found: Declared) -> None:
        if found.missing:
            self._metrics.repairs.inc(len(found.missing))
            _log.warning("topology was missing and is declared", queue_set=name, queues=sorted(found.missing))
            self._unrepaired.setdefault(name, set()).update(found.missing)

    async def _repair(self, name: str, spec: QueueSetSpec) -> None:
        """Tell what was lost; where that fails it is told again at the next declaration."""
        if name not in self._unrepaired:
            return
        for queue in spec.queues:
            await self._on_lost(name, queue.name)
        if dead_letter_queue(spec.namespace) in self._unrepaired[name]:
            await self._on_dead_letters_lost(name)
        del self._unrepaired[name]

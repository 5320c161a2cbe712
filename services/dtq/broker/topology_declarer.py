"""The topology declarer: declares the topology of every queue set in the broker.

A queue set that cannot be declared does not affect the others: it is skipped, reported, and tried again with back-off.
API and worker use the declarer too, so that a queue deleted by hand is restored without a restart; if RabbitMQ does not
permit them to declare, the operator or `dtq apply` does it for them. It deletes nothing.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import aiormq
import structlog
from aiormq.abc import AbstractConnection

from dtq.broker.broker_connection import BROKER_ERRORS, CONNECT_SECONDS, Url, translated
from dtq.broker.declare import Declared, declare
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.topology import dead_letter_exchange, dead_letter_queue, main_exchange, topology_of, work_queue
from dtq.runtime.loops import Retries, foreign_cancellation_as_error
from dtq.runtime.metrics import BrokerMetrics

DECLARE_SECONDS: Final = 20.0
"""Longest declaration of one queue set, in seconds: less than the set-up of a broker connection may take."""
RETRY_SECONDS: Final = 1.0
"""How often to check whether a failed declaration is due to be tried again, in seconds."""

_log = structlog.get_logger(__name__)

OnLost = Callable[[str, str], Awaitable[None]]
"""Called with queue set and queue whose messages are lost."""
OnDeadLettersLost = Callable[[str], Awaitable[None]]
"""Called with the queue set whose dead letters are lost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    """A queue set that could not be declared.

    Attributes:
        spec: the spec that was tried; a changed spec is tried at once.
        absent: names of its exchanges and queues that are not known to exist.
        retries: when the set is tried again.
    """

    spec: QueueSetSpec
    reason: str
    absent: frozenset[str]
    retries: Retries


class TopologyDeclarer:
    """Declares queue sets.

    Args:
        queue_sets: the sets to declare, by name; code that changes them must have them declared.
        url: for trying a failed set again on a connection of its own: a refusal may end the connection.
        on_lost: called when a queue was missing: its tasks must be published again.
        on_dead_letters_lost: called when a dead letter queue was missing.
    """

    def __init__(
        self,
        url: Url,
        *,
        queue_sets: Mapping[str, QueueSetSpec],
        on_lost: OnLost,
        on_dead_letters_lost: OnDeadLettersLost,
        metrics: BrokerMetrics,
    ) -> None:
        self._url = url
        self._queue_sets = queue_sets
        self._on_lost = on_lost
        self._on_dead_letters_lost = on_dead_letters_lost
        self._metrics = metrics
        self._unrepaired: dict[str, set[str]] = {}
        self._failures: dict[str, _Failure] = {}
        self._refused_exchanges: dict[str, str] = {}
        self._known: set[str] = set()
        self._suspects: set[str] = set()
        self._left_alone: set[str] = set()
        self._one_at_a_time = asyncio.Lock()
        self.mismatched: dict[str, dict[str, str]] = {}
        """The difference, by queue set and by the name of each exchange or queue that exists with other arguments."""

    @property
    def refused(self) -> dict[str, str]:
        """The reason, by the name of each queue set that could not be declared."""
        return {name: failure.reason for name, failure in self._failures.items()}

    @property
    def closed(self) -> list[str]:
        """The names of the queue sets that cannot be published to: an exchange is missing and refused."""
        return sorted(name for name, failure in self._failures.items() if failure.absent & _exchanges(failure.spec))

    def refusal(self, exchange: str) -> str | None:
        """Return why an exchange may not be published to (it is missing and refused, and would end the channel)."""
        return self._refused_exchanges.get(exchange)

    def trouble(self, queue_set: str, queue: str) -> str | None:
        """Return why a task of this queue could not run now (exchange or queue are missing and refused), or None."""
        failure = self._failures.get(queue_set)
        if failure is None:
            return None
        needed = {main_exchange(failure.spec.namespace), work_queue(failure.spec.namespace, queue)}
        return failure.reason if needed & failure.absent else None

    async def declare(self, connection: AbstractConnection) -> None:
        """Declare every queue set that did not fail before; `retry` tries the failed ones.

        Raises:
            Unavailable: losses could not be reported; the next declaration reports them.
            AMQPError: the connection is lost.
        """
        async with self._one_at_a_time:
            self._forget()
            trouble: Unavailable | None = None
            for name, spec in self._queue_sets.items():
                if name in self._failures:
                    continue
                try:
                    await self._declare(connection, name, spec)
                except Unavailable as error:
                    trouble = error
            if trouble is not None:
                raise trouble

    async def retry(self) -> bool:
        """Declare again the failed queue sets whose back-off is over; return False.

        Raises:
            Unavailable: the broker or, after a loss, the database does not answer.
        """
        async with self._one_at_a_time:
            self._forget()
            for name, spec in self._queue_sets.items():
                failure = self._failures.get(name)
                if failure is not None and (failure.spec != spec or failure.retries.is_due):
                    await self._retry(name, spec)
        return False

    async def _retry(self, name: str, spec: QueueSetSpec) -> None:
        with translated():
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await aiormq.connect(self._url if isinstance(self._url, str) else self._url())
        try:
            await self._declare(connection, name, spec)
        except BROKER_ERRORS:
            pass  # recorded as the set's failure: the connection was for this set alone
        finally:
            with suppress(*BROKER_ERRORS):
                await connection.close()

    async def _declare(self, connection: AbstractConnection, name: str, spec: QueueSetSpec) -> None:
        found = Declared()
        try:
            with foreign_cancellation_as_error():
                async with asyncio.timeout(DECLARE_SECONDS):
                    await declare(connection, topology_of(spec), found)
        except (Rejected, *BROKER_ERRORS) as error:
            # One lost connection is an outage; a second one at the same step is caused by this set.
            if connection.is_closed and name not in self._failures and name not in self._suspects:
                self._suspects.add(name)
                raise
            self._fail(name, spec, error, found)
            if connection.is_closed:
                raise
            return
        finally:
            self._note(name, found)
        self._succeed(name)
        await self._repair(name, spec)

    def _fail(self, name: str, spec: QueueSetSpec, error: Exception, found: Declared) -> None:
        retries = self._failures[name].retries if name in self._failures else Retries()
        self._known.add(name)
        reason = (
            f"{error}, or {_DECLARED_BY_OTHERS}"
            if isinstance(error, Rejected)
            else f"{type(error).__name__}: {error}"[:300]
        )
        if retries.failed():
            _log.error("queue set declaration failed", queue_set=name, reason=reason)
        self._failures[name] = _Failure(spec=spec, reason=reason, absent=frozenset(found.absent), retries=retries)
        self._metrics.declared.labels(name).set(0)
        self._close_exchanges()

    def _succeed(self, name: str) -> None:
        self._known.add(name)
        if self._failures.pop(name, None) is not None:
            _log.info("queue set declared", queue_set=name)
            self._close_exchanges()
        self._suspects.discard(name)
        self._metrics.declared.labels(name).set(1)

    def _close_exchanges(self) -> None:
        self._refused_exchanges = {
            exchange: f"queue set {name} is not declared: {failure.reason}"
            for name, failure in self._failures.items()
            for exchange in failure.absent & _exchanges(failure.spec)
        }

    def _forget(self) -> None:
        """Drop the failures and findings of queue sets that are no longer declared."""
        for name in self._known - self._queue_sets.keys():
            self._known.discard(name)
            self._suspects.discard(name)
            self._left_alone.discard(name)
            self._failures.pop(name, None)
            self.mismatched.pop(name, None)
            self._unrepaired.pop(name, None)
            with suppress(KeyError):
                self._metrics.declared.remove(name)
        self._close_exchanges()

    def _note(self, name: str, found: Declared) -> None:
        if found.is_left_alone and name not in self._left_alone:
            self._left_alone.add(name)
            _log.info("queue set left alone", queue_set=name, reason=f"no permission to declare: {_DECLARED_BY_OTHERS}")
        self.mismatched.pop(name, None)
        if found.mismatched:
            self.mismatched[name] = found.mismatched
        if found.missing:
            self._metrics.repairs.inc(len(found.missing))
            _log.warning("missing topology declared", queue_set=name, queues=sorted(found.missing))
            self._unrepaired.setdefault(name, set()).update(found.missing)

    async def _repair(self, name: str, spec: QueueSetSpec) -> None:
        """Report losses; a failed report is repeated at the next declaration."""
        if name not in self._unrepaired:
            return
        for queue in spec.queues:
            await self._on_lost(name, queue.name)
        if dead_letter_queue(spec.namespace) in self._unrepaired[name]:
            await self._on_dead_letters_lost(name)
        del self._unrepaired[name]


_DECLARED_BY_OTHERS: Final = "let the operator or `dtq apply` declare it"


def _exchanges(spec: QueueSetSpec) -> frozenset[str]:
    return frozenset({main_exchange(spec.namespace), dead_letter_exchange(spec.namespace)})

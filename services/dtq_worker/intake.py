"""The intake: takes deliveries while slots are free, claims them in batches, acknowledges them and starts the handlers.

A message is acknowledged only after its claim is committed. If Postgres does not answer, the messages go back to the
buffer unacknowledged. The worker holds no message that it cannot claim soon, and runs a suspect alone.
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog

from dtq.broker.consumer import Consumer, Delivery
from dtq.domain.envelope import Envelope, decode
from dtq.domain.errors import Stale, Unavailable
from dtq.domain.window import GIVE_BACK_SECONDS, window
from dtq.runtime import failpoints
from dtq.runtime.loops import Retries, Ticker, set_with, wait
from dtq.runtime.metrics import WorkerMetrics
from dtq_db import attempts as store
from dtq_db.connections import STATEMENT_SECONDS, DedicatedConnection
from dtq_worker.finisher import Finisher
from dtq_worker.handing_on import HandingOn
from dtq_worker.lease import Lease
from dtq_worker.runner import CANCEL, FENCE, OUTAGE
from dtq_worker.running import RunningTasks
from dtq_worker.suspects import Suspect, Suspects

TAKE_SECONDS: Final = 0.5
"""Longest wait for deliveries or a free slot, in seconds, while there is something to attend to."""
REST_SECONDS: Final = 1.0
"""Longest wait for deliveries while nothing runs, in seconds: how long a lost lease may be unnoticed here."""
LINGER_SECONDS: Final = 0.003
"""How long a busy intake waits for more deliveries, in seconds."""
BUSY_SECONDS: Final = 0.010
"""The intake is busy if a claim follows the last one within this time, in seconds."""
LEASELESS_SECONDS: Final = 0.1
"""How often a worker without a lease checks for a new lease, in seconds."""
UNRESOLVED_SECONDS: Final = STATEMENT_SECONDS + 2.0
"""When an interrupted claim is resolved, in seconds: by then the server has certainly ended its statement."""
RETRY_SECONDS_MAX: Final = 2.0
"""Longest pause after a failed claim, in seconds: deliveries wait meanwhile."""
TYPES_MAX: Final = 64
"""Most types that a claim looks up whatever its messages say; a worker of more types asks for those that they name. A
message that names a wrong type then delays its task by five seconds."""
CLAIM_SECONDS: Final = 15.0
"""Longest claim with its acknowledgement, or record that a suspect runs alone, in seconds: connecting and one
statement, each at its bound, and a margin."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UnresolvedClaim:
    """Tasks of a claim whose outcome is unknown, and the time after which no server can still be working on it."""

    worker_id: UUID
    ids: frozenset[UUID]
    settle_at: float


class Intake:
    """Claims and starts tasks.

    Args:
        prefetch: most messages of a queue that wait here.
        ticker: ends the pauses of the process's loops together.
    """

    def __init__(
        self,
        consumer: Consumer,
        dedicated: DedicatedConnection,
        lease: Lease,
        running: RunningTasks,
        finisher: Finisher,
        handing_on: HandingOn,
        *,
        types: Collection[str],
        prefetch: int,
        metrics: WorkerMetrics,
        ticker: Ticker,
    ) -> None:
        self._consumer = consumer
        self._dedicated = dedicated
        self._lease = lease
        self._running = running
        self._finisher = finisher
        self._handing_on = handing_on
        self._types = frozenset(types)
        self._newer: frozenset[str] = frozenset()
        self._prefetch = prefetch
        self._metrics = metrics
        self._ticker = ticker
        self._suspects = Suspects()
        self._alone: UUID | None = None
        self._claimed_at = 0.0
        self._unresolved: list[UnresolvedClaim] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Claim and start tasks until `stop`.

        A bug outside a handler ends the worker: otherwise its lease would keep its tasks from other workers.
        """
        with set_with(stop, self._consumer.arrived):
            await self._run(stop)

    async def _run(self, stop: asyncio.Event) -> None:
        retries = Retries(longest_seconds=RETRY_SECONDS_MAX)
        while not stop.is_set():
            if self._running.bug is not None:
                raise self._running.bug
            if self._lease.worker_id is None:
                await self._consumer.resize(0)
                await wait(stop, LEASELESS_SECONDS)
                continue
            deliveries: list[Delivery] = []
            try:
                await self._resolve_unknown_claims()
                if await self._attend_suspects():
                    continue
                deliveries = await self._take()
                if deliveries:
                    await self._claim(deliveries, stop)
                    self._claimed_at = time.monotonic()
                    await self._give_back_waiting()
                retries.succeeded()
            except (Unavailable, Stale) as error:
                self._consumer.put_back(deliveries)
                if retries.failed():
                    _log.warning("claim failed", reason=str(error))
                await retries.pause(stop)

    def leave_to_newer(self, types: Collection[str]) -> None:
        """Stop claiming tasks of these types: only a newer release understands them."""
        self._newer = frozenset(types)

    async def _take(self) -> list[Delivery]:
        """Return deliveries for the free slots; none after a bounded wait without a free slot or a message."""
        slots = self._running.free_slots
        if slots <= 0:
            await self._wait_for_slot()
            return []
        if self._consumer.window < self._prefetch:
            most = window(moving=self._running.moving_slots, run_seconds=self._running.run_seconds, most=self._prefetch)
            if most >= 2 * self._consumer.window:
                await self._consumer.resize(most)
        if time.monotonic() - self._claimed_at < BUSY_SECONDS:
            await asyncio.sleep(LINGER_SECONDS)
        if self._running or self._unresolved:
            return await self._consumer.take(slots, TAKE_SECONDS)
        return await self._consumer.take(slots, REST_SECONDS, self._ticker.wait)

    async def _wait_for_slot(self) -> None:
        """Wait a bounded time until a handler ends; messages that wait too long meanwhile go back to the broker."""
        await self._running.wait_for_slot(TAKE_SECONDS)
        await self._give_back_waiting()

    async def _give_back_waiting(self) -> None:
        """Give back messages that could not be claimed soon, for other workers; hold only what can start now."""
        if self._consumer.oldest_seconds > GIVE_BACK_SECONDS:
            one_runs = self._alone in self._running
            room = 0 if one_runs or self._suspects else self._running.free_slots
            await self._consumer.resize(min(self._prefetch, room))

    async def _attend_suspects(self) -> bool:
        """Start the next suspect once nothing else runs; return whether claims must pause for it.

        Raises:
            Unavailable: whether the suspect was started is unknown; it waits for its turn.
        """
        one_runs = self._alone in self._running
        if not (one_runs or self._suspects):
            return False
        await self._hand_on(self._suspects.to_hand_on(one_runs=one_runs))
        if self._running:
            await self._wait_for_slot()
        elif self._finisher.pending:
            await asyncio.sleep(LINGER_SECONDS)  # ended attempts are recorded before a suspect can crash the worker
        elif self._suspects:
            await self._start_alone(self._suspects.next)
        return True

    async def _start_alone(self, suspect: Suspect) -> None:
        worker_id, claim = suspect.worker_id, suspect.claim
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                await failpoints.hit("alone.next")
                started = await store.run_alone(self._dedicated, worker_id, claim)
                await failpoints.hit("alone.committed")
        except TimeoutError as error:
            raise Unavailable("the database did not confirm in time that a suspect runs alone") from error
        self._forget(suspect)
        if started and self._lease.worker_id == worker_id:
            self._alone = claim.id
            self._running.start(worker_id, claim)
        elif started:
            # The lease was lost meanwhile: the suspect has not run and must not be charged.
            self._unresolved.append(UnresolvedClaim(worker_id, frozenset({claim.id}), time.monotonic()))

    async def _hand_on(self, suspects: list[Suspect]) -> None:
        """Give suspects back to other workers; the attempt is not counted."""
        for suspect in suspects:
            released = await store.release(self._dedicated, suspect.worker_id, {suspect.claim.id})
            self._metrics.released.inc(released)
            self._forget(suspect)

    def _forget(self, suspect: Suspect) -> None:
        if self._suspects.remove(suspect):
            self._running.count(suspect.claim, -1)

    def cancel(self, ids: list[UUID]) -> None:
        """Stop the handlers of cancelled tasks."""
        self._suspects.cancel(ids)
        self._running.cancel(ids, CANCEL)

    def fence(self, worker_id: UUID, *, postgres_was_away: bool) -> None:
        """Stop every handler: other workers may take the tasks now.

        After an outage of Postgres the tasks are given back once it answers, unless they were taken meanwhile: this
        worker has not crashed, so no task is suspected. Otherwise nothing is recorded: a task may be the cause.
        """
        self._metrics.leases_lost.inc()
        self._running.cancel(list(self._running.ids), OUTAGE if postgres_was_away else FENCE)
        ids = frozenset(self._suspects.ids)
        for suspect in self._suspects.clear():
            self._running.count(suspect.claim, -1)
        if ids and postgres_was_away:
            self._unresolved.append(UnresolvedClaim(worker_id, ids, time.monotonic()))

    async def drain(self, grace_seconds: float) -> None:
        """Let running handlers end within the grace period, then stop them without cost to their tasks."""
        for suspect in self._suspects.clear():
            self._running.count(suspect.claim, -1)
            await self._release(suspect.worker_id, {suspect.claim.id})
        await self._running.drain(grace_seconds)
        for unresolved in list(self._unresolved):
            # Earlier than is certain: a claim that is committed even later ends with the lease and costs an attempt.
            await self._release(unresolved.worker_id, self._unstarted(unresolved))

    async def _claim(self, deliveries: list[Delivery], stop: asyncio.Event) -> None:
        worker_id = self._lease.worker_id
        if worker_id is None:
            raise Stale("the worker has no lease")
        received, undecodable = self._received(deliveries)
        handed_on = await self._handing_on.hand_on(received)
        ids = {envelope.id for _, envelope in received} - handed_on
        types = self._types - self._newer
        if len(types) > TYPES_MAX:
            types &= {envelope.type for _, envelope in received}
        try:
            async with asyncio.timeout(CLAIM_SECONDS):
                await failpoints.hit("claim.taken")
                claims = await store.claim(self._dedicated, worker_id, ids, types) if ids else []
                await failpoints.hit("claim.committed")
                await self._consumer.ack(deliveries)
                await failpoints.hit("claim.acked")
        except (Unavailable, TimeoutError) as error:
            # The claims may have been or may still be committed; the tasks would then run nowhere.
            self._unresolved.append(UnresolvedClaim(worker_id, frozenset(ids), time.monotonic() + UNRESOLVED_SECONDS))
            raise Unavailable(f"the outcome of a claim is unknown: {error}") from error
        self._metrics.deliveries.labels("undecodable").inc(undecodable)
        self._metrics.deliveries.labels("claimed").inc(len(claims))
        self._metrics.deliveries.labels("handed_on").inc(len(handed_on))
        self._metrics.deliveries.labels("dropped").inc(len(deliveries) - undecodable - len(handed_on) - len(claims))
        if stop.is_set() or self._lease.worker_id != worker_id:
            # A task that never started costs no attempt; and no fence would stop one that starts without a lease.
            await self._release(worker_id, {claim.id for claim in claims})
            return
        unreadable = frozenset(claim.id for claim in claims if claim.newer)
        if unreadable:
            # Their type has changed since the catalog was read; they are released before the next claim.
            self._unresolved.append(UnresolvedClaim(worker_id, unreadable, time.monotonic()))
        for claim in claims:
            if claim.newer:
                continue
            if claim.suspected_seconds is None:
                self._running.start(worker_id, claim)
            else:
                self._suspects.add(worker_id, claim)
                self._running.count(claim, 1)

    def _received(self, deliveries: list[Delivery]) -> tuple[list[tuple[str, Envelope]], int]:
        """Return each envelope with its queue, and how many deliveries are not envelopes."""
        received: list[tuple[str, Envelope]] = []
        undecodable = 0
        for delivery in deliveries:
            try:
                received.append((delivery.queue, decode(delivery.body)))
            except ValueError as error:
                # No worker can run it; its bytes may be anything, so the message is counted, not shown.
                undecodable += 1
                _log.error("undecodable message dropped", queue=delivery.queue, reason=str(error)[:200])
        return received, undecodable

    async def _resolve_unknown_claims(self) -> None:
        """Give back tasks that an interrupted claim may have taken and that this worker never started."""
        for unresolved in list(self._unresolved):
            if time.monotonic() > unresolved.settle_at:
                unstarted = self._unstarted(unresolved)
                self._metrics.released.inc(await store.release(self._dedicated, unresolved.worker_id, unstarted))
                self._unresolved.remove(unresolved)

    def _unstarted(self, unresolved: UnresolvedClaim) -> set[UUID]:
        return set(unresolved.ids - set(self._running.ids) - self._finisher.pending - self._suspects.ids)

    async def _release(self, worker_id: UUID, ids: set[UUID]) -> None:
        try:
            self._metrics.released.inc(await store.release(self._dedicated, worker_id, ids))
            await failpoints.hit("claim.released")
        except Unavailable as error:
            _log.warning("claim release failed", tasks=len(ids), reason=str(error))
            self._unresolved.append(UnresolvedClaim(worker_id, frozenset(ids), time.monotonic()))

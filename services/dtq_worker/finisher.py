"""The finisher: records ended attempts in batches, then publishes retries and dead letters.

The row is written first, then the message is published. The relay repairs a lost message. A failed write is repeated
until the lease expires; then the reaper takes the task back.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import datetime
from typing import Final
from uuid import UUID

import structlog
from msgspec.structs import replace

from dtq.broker.messages import dead_letter, retry
from dtq.broker.publish_window import Message
from dtq.broker.publisher import Publisher
from dtq.domain.decisions import Decision
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.limits import LEASE_SECONDS, RELAY_GRACE_SECONDS
from dtq.domain.queue_sets import QueueSets
from dtq.domain.states import Outcome, TaskStatus
from dtq.domain.topology import retry_delay
from dtq.runtime import failpoints
from dtq.runtime.loops import Retries
from dtq.runtime.metrics import WorkerMetrics
from dtq_db import attempts as store
from dtq_db.attempts import Claim, Completion, Finished
from dtq_db.connections import DedicatedConnection
from dtq_db.tasks import confirm
from dtq_worker.unblocker import Unblocker

BATCH_MAX: Final = 500
"""Most ended attempts recorded by one statement."""
LINGER_SECONDS: Final = 0.005
"""How long a busy finisher waits for more ended attempts, in seconds: tiny batches waste Postgres."""
BUSY_SECONDS: Final = 0.010
"""The finisher is busy if a flush follows the last one within this time, in seconds."""
RETRY_SECONDS_MAX: Final = 1.0
"""Longest pause after a failed write, in seconds: the lease ends soon."""
WRITE_SECONDS: Final = 15.0
"""Longest try to record a batch, in seconds: connecting and one statement, each at its bound, and a margin."""
FOLLOW_SECONDS: Final = 30.0
"""How long to wait at shutdown for retries and dead letters under way, in seconds; the relay publishes the rest."""

_log = structlog.get_logger(__name__)


Ended = tuple[Claim, Completion]
"""A claim whose attempt has ended, and its completion."""


class Finisher:
    """Records ended attempts."""

    def __init__(
        self,
        dedicated: DedicatedConnection,
        publisher: Publisher,
        unblocker: Unblocker,
        *,
        queue_sets: QueueSets,
        metrics: WorkerMetrics,
    ) -> None:
        self._dedicated = dedicated
        self._publisher = publisher
        self._unblocker = unblocker
        self._queue_sets = queue_sets
        self._metrics = metrics
        self._waiting: list[Ended] = []
        self._arrived = asyncio.Event()
        self._following: set[asyncio.Task[None]] = set()
        self._bug: BaseException | None = None
        self._stop = asyncio.Event()
        self.pending: set[UUID] = set()
        """Tasks whose attempt has ended here but is not recorded yet."""

    def add(self, worker_id: UUID, claim: Claim, decision: Decision) -> None:
        """Queue an ended attempt for recording."""
        is_retry = decision.unjittered_seconds is not None and self._retry_delay(claim, decision) is not None
        grace = RELAY_GRACE_SECONDS if is_retry else 0.0
        completion = Completion(
            worker_id=worker_id, id=claim.id, attempt=claim.attempt, decision=decision, grace_seconds=grace
        )
        self.pending.add(claim.id)
        self._waiting.append((claim, completion))
        self._arrived.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Record ended attempts until `stop`, then the remaining ones.

        A bug outside a handler ends the worker: otherwise its lease would keep the unrecorded tasks from other workers.
        """
        self._stop = stop
        stopping = asyncio.ensure_future(stop.wait())
        flushed_at = 0.0
        while not (stop.is_set() and not self._waiting):
            arrived = asyncio.ensure_future(self._arrived.wait())
            await asyncio.wait((arrived, stopping), return_when=asyncio.FIRST_COMPLETED)
            arrived.cancel()
            if time.monotonic() - flushed_at < BUSY_SECONDS and len(self._waiting) < BATCH_MAX:
                await asyncio.sleep(LINGER_SECONDS)
            batch, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
            if not self._waiting:
                self._arrived.clear()
            if self._bug is not None:
                raise self._bug
            if batch:
                await self._record(batch)
                flushed_at = time.monotonic()
        if self._following:
            await asyncio.wait(self._following, timeout=FOLLOW_SECONDS)

    async def _record(self, batch: list[Ended]) -> None:
        await failpoints.hit("finish.decided")
        finished = await self._write(batch)
        outcomes: Counter[tuple[str, Outcome]] = Counter()
        attempts: Counter[tuple[str, int]] = Counter()
        followers: list[tuple[Claim, Decision, Finished]] = []
        for claim, completion in batch:
            self.pending.discard(claim.id)
            written = finished.get(claim.id)
            if written is None:
                outcomes[claim.type, Outcome.LOST] += 1
                self._metrics.stale.inc()
                _log.warning("stale result discarded", task_id=str(claim.id))
                continue
            outcomes[claim.type, completion.decision.outcome] += 1
            if written.status != TaskStatus.ENQUEUED:
                attempts[claim.type, claim.attempt] += 1
            if written.status != TaskStatus.SUCCEEDED:
                followers.append((claim, completion.decision, written))
        self._count(outcomes, attempts)
        if followers:
            self._meanwhile(self._follow(followers))
        if slots := {claim.slot for claim, _ in batch if claim.slot is not None}:
            self._meanwhile(self._unblocker.freed(slots))

    def _count(self, outcomes: Counter[tuple[str, Outcome]], attempts: Counter[tuple[str, int]]) -> None:
        """Count a batch at once: a metric with labels costs a microsecond or two each time."""
        for (type_, outcome), number in outcomes.items():
            self._metrics.finished.labels(type_, outcome).inc(number)
        for (type_, attempt), number in attempts.items():
            histogram = self._metrics.attempts.labels(type_)
            for _ in range(number):
                histogram.observe(attempt)

    def _meanwhile(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._following.add(task)
        task.add_done_callback(self._followed)

    def _followed(self, task: asyncio.Task[None]) -> None:
        self._following.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._bug = error
            self._arrived.set()

    async def _write(self, batch: list[Ended]) -> dict[UUID, Finished]:
        """Write a batch, repeating failed writes: while the lease is renewed, no other process can end these attempts.

        A worker that is stopping gives up; the reaper takes the tasks back when the lease expires.
        """
        retries = Retries(longest_seconds=RETRY_SECONDS_MAX, deadline_seconds=LEASE_SECONDS)
        while True:
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    finished = await store.finish(self._dedicated, [completion for _, completion in batch])
                    await failpoints.hit("finish.committed")
            except (Unavailable, TimeoutError) as error:
                retries.failed()
                if self._stop.is_set() and retries.is_over:
                    _log.error("finish failed", tasks=len(batch), reason=str(error))
                    return {}
                await retries.pause()
            except Rejected as error:
                if len(batch) == 1:
                    return await self._write([_unstorable(batch[0], error)])
                # One result that Postgres cannot store must not lose the rest of the batch.
                parts = [await self._write([ended]) for ended in batch]
                return {id_: written for part in parts for id_, written in part.items()}
            else:
                return finished

    def _retry_delay(self, claim: Claim, decision: Decision) -> int | None:
        spec = self._queue_sets.get(claim.queue_set)
        return retry_delay(spec, claim.queue, decision.unjittered_seconds) if spec else None

    async def _follow(self, followers: list[tuple[Claim, Decision, Finished]]) -> None:
        """Publish retries and dead letters; the relay publishes those that are not confirmed."""
        messages: list[Message] = []
        kinds: list[tuple[TaskStatus, UUID, datetime]] = []
        for claim, decision, written in followers:
            spec = self._queue_sets.get(claim.queue_set)
            step = self._retry_delay(claim, decision)
            if written.status == TaskStatus.ENQUEUED:
                self._metrics.retries.labels(claim.type).inc()
                if spec and step is not None:
                    delay = decision.delay_seconds
                    messages.append(
                        retry(spec.namespace, claim.queue, claim.id, claim.type, retry_delay=step, delay_seconds=delay)
                    )
                    kinds.append((TaskStatus.ENQUEUED, claim.id, written.updated_at))
            elif written.status == TaskStatus.FAILED:
                self._metrics.dead_letters.labels(claim.type).inc()
                if spec and spec.dead_letter.enabled:
                    messages.append(dead_letter(spec.namespace, claim.queue, claim.id, claim.type))
                    kinds.append((TaskStatus.FAILED, claim.id, written.updated_at))
            elif written.status == TaskStatus.CANCELLED:
                self._metrics.cancelled.inc()
        results = await self._publisher.publish(messages)
        await self._note([kind for kind, refused in zip(kinds, results, strict=True) if refused is None])

    async def _note(self, sent: list[tuple[TaskStatus, UUID, datetime]]) -> None:
        """Record what the broker confirmed; a lost record costs one duplicate message."""
        retried = {id_: version for status, id_, version in sent if status is TaskStatus.ENQUEUED}
        dead = {id_: version for status, id_, version in sent if status is TaskStatus.FAILED}
        try:
            if retried:
                await failpoints.hit("retry.published")
                await confirm(self._dedicated, retried)
            if dead:
                await failpoints.hit("dead_letter.published")
                self._metrics.dead_lettered.inc(await store.dead_lettered(self._dedicated, dead))
        except Unavailable as error:
            _log.warning("confirm write failed", reason=str(error))


def _unstorable(ended: Ended, error: Rejected) -> Ended:
    claim, completion = ended
    failed = replace(
        completion.decision,
        status=TaskStatus.FAILED,
        outcome=Outcome.FAILED,
        result=None,
        error=f"the result cannot be stored: {error}",
    )
    return claim, replace(completion, decision=failed)

"""Group commit: requests that arrive together share one INSERT, one commit and one publish window.

There is no timer: the requests that wait when a connection becomes free form a batch. A row that the broker refuses is
taken back; a row that cannot be taken back runs, and its request is answered as accepted.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from dtq.broker.messages import work
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.queue_sets import QueueSets
from dtq.runtime import failpoints
from dtq.runtime.deadlines import Deadlines
from dtq.runtime.metrics import ApiMetrics
from dtq_api import problems
from dtq_db import tasks as store
from dtq_db.connections import Database, DedicatedConnection
from dtq_db.tasks import ExistingTask, NewTask

BATCHES_MAX: Final = 2
"""Batches under way at the same time: one is stored while the other is published."""
BATCH_MAX: Final = 200
"""Most tasks of one batch."""
LARGE_PAYLOAD_BYTES: Final = 32_768
"""From here on a payload is large, in bytes: storing it takes so long that other tasks must not share its batch."""
LARGE_BATCH_MAX: Final = 4
"""Most tasks of a batch of large payloads."""
WAITING_MAX: Final = 2_000
"""Most requests waiting for a batch; further requests are told to come back, so that memory stays bounded."""
REPLAY_TRIES: Final = 3
"""How often a key is looked up and stored again while other requests store and take back the same key."""
ANSWER_SECONDS: Final = 20.0
"""Longest wait for an answer, in seconds: connecting, storing, publishing twice and taking back, each at its bound."""
BATCH_SECONDS: Final = 30.0
"""Longest batch, in seconds; after that its connection is closed and the next batch gets a new one."""

_log = structlog.get_logger(__name__)


class _Waiting:
    """One request under way. `hit` is the task that already holds its key."""

    def __init__(self, task: NewTask) -> None:
        self.task = task
        self.answer: asyncio.Future[ExistingTask | None] = asyncio.get_running_loop().create_future()

    def resolve(self, hit: ExistingTask | None) -> None:
        if not self.answer.done():
            self.answer.set_result(hit)

    def expire(self) -> None:
        self.fail(Unavailable(f"the task was not stored and published within {ANSWER_SECONDS:g} s", in_doubt=True))

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


@contextmanager
def _answering(batch: list[_Waiting]) -> Iterator[None]:
    """Answer every open request of the batch with the error."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - a bug must reach its request too, which answers 500 and logs it
        for request in batch:
            request.fail(Unavailable(str(error), in_doubt=error.in_doubt) if isinstance(error, Unavailable) else error)


class GroupCommit:
    """Stores and publishes tasks.

    Args:
        accept_when_down: store tasks while the broker is down, and let the relay publish them.
        name: of its connections.
        batches: batches under way at the same time.
        batch_max: most tasks of one batch.
    """

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        *,
        queue_sets: QueueSets,
        accept_when_down: bool,
        metrics: ApiMetrics,
        confirmed: Callable[[dict[UUID, datetime]], None],
        name: str = "enqueue",
        batches: int = BATCHES_MAX,
        batch_max: int = BATCH_MAX,
    ) -> None:
        self._publisher = publisher
        self._queue_sets = queue_sets
        self._accept_when_down = accept_when_down
        self._metrics = metrics
        self._confirmed = confirmed
        self._batch_max = batch_max
        self._waiting: deque[_Waiting] = deque()
        self._free = [database.dedicated(f"{name}-{number}") for number in range(batches)]
        self._running: set[asyncio.Task[None]] = set()
        self._deadlines = Deadlines()

    async def store(self, task: NewTask) -> ExistingTask | None:
        """Store a task and publish it; return the task that already holds its key, if there is one.

        Raises:
            Unavailable: nothing was stored, or the outcome is in doubt and a request with the same key resolves it.
            Rejected: the database cannot store the payload, or the type was deactivated meanwhile.
        """
        self._make_sure_of_room(1)
        waiting = _Waiting(task)
        self._waiting.append(waiting)
        self._start()
        deadline = self._deadlines.start(ANSWER_SECONDS, waiting.expire)
        try:
            return await waiting.answer
        finally:
            self._deadlines.cancel(deadline)

    async def store_many(self, tasks: Sequence[NewTask]) -> list[ExistingTask | BaseException | None]:
        """Store and publish tasks that came together; return the answer to each as `store` returns or raises it.

        Raises:
            Unavailable: nothing was stored.
        """
        self._make_sure_of_room(len(tasks))
        requests = [_Waiting(task) for task in tasks]
        self._waiting.extend(requests)
        self._start()

        def expire() -> None:
            for request in requests:
                request.expire()

        deadline = self._deadlines.start(ANSWER_SECONDS, expire)
        try:
            return await asyncio.gather(*(request.answer for request in requests), return_exceptions=True)
        finally:
            self._deadlines.cancel(deadline)

    def _make_sure_of_room(self, tasks: int) -> None:
        if not self._accept_when_down:
            self._publisher.check()
        if len(self._waiting) + tasks > WAITING_MAX:
            raise Unavailable(f"{len(self._waiting)} requests are already waiting", retry_after_seconds=1)

    async def idle(self) -> None:
        """Wait for the batches under way, at shutdown."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(self) -> None:
        while self._free and self._waiting:
            dedicated = self._free.pop()
            batch = [self._waiting.popleft() for _ in range(min(self._batch_max, len(self._waiting)))]
            running = asyncio.get_running_loop().create_task(self._run(dedicated, batch))
            self._running.add(running)
            running.add_done_callback(partial(self._ended, dedicated))

    def _ended(self, dedicated: DedicatedConnection, done: asyncio.Task[None]) -> None:
        self._running.discard(done)
        self._free.append(dedicated)
        self._start()

    async def _run(self, dedicated: DedicatedConnection, batch: list[_Waiting]) -> None:
        """Process one batch; every request gets an answer, whatever fails."""
        with _answering(batch):
            async with asyncio.timeout(BATCH_SECONDS):
                await self._store(dedicated, batch)
        for request in batch:
            if not request.answer.done():
                with _answering([request]):
                    async with asyncio.timeout(BATCH_SECONDS):
                        await self._replay(dedicated, request)

    async def _store(self, dedicated: DedicatedConnection, batch: list[_Waiting]) -> None:
        stored = await self._insert(dedicated, batch)
        await failpoints.hit("enqueue.inserted")
        self._metrics.batch.observe(len(batch))
        await self._publish(dedicated, [request for request in batch if request.task.id in stored], stored)

    async def _insert(self, dedicated: DedicatedConnection, batch: list[_Waiting]) -> dict[UUID, datetime]:
        try:
            return await store.enqueue(dedicated, [request.task for request in batch])
        except Rejected as error:
            if len(batch) == 1:
                batch[0].fail(Rejected("InvalidPayload", f"the payload cannot be stored: {error}"))
                return {}
        # One row that Postgres cannot store must not fail the rest of the batch.
        stored: dict[UUID, datetime] = {}
        for request in batch:
            # The stored rows must be published, whatever happens to the others.
            with _answering([request]):
                stored |= await self._insert(dedicated, [request])
        return stored

    async def _replay(self, dedicated: DedicatedConnection, request: _Waiting) -> None:
        if request.task.idempotency_key is None:
            request.fail(problems.inactive(request.task.type))
            return
        for _ in range(REPLAY_TRIES):
            if hit := await store.replay(dedicated, request.task):
                await failpoints.hit("enqueue.replayed")
                request.resolve(hit)
                return
            # The task that held the key was just taken back, so the key is free again.
            if stored := await store.enqueue(dedicated, [request.task]):
                await self._publish(dedicated, [request], stored)
                return
        request.fail(Unavailable("RabbitMQ refuses other requests with the same idempotency_key"))

    async def _publish(
        self, dedicated: DedicatedConnection, fresh: list[_Waiting], stored: dict[UUID, datetime]
    ) -> None:
        """Publish the stored tasks; take back those that the broker refuses, unless the relay may publish them."""
        due: list[_Waiting] = []
        for request in fresh:
            if request.task.run_at is None or request.task.run_at <= datetime.now(UTC):
                due.append(request)
            else:
                request.resolve(None)
        tasks = [request.task for request in due]
        results = await self._publisher.publish(
            [work(self._queue_sets.prefix(task.queue_set), task.queue, task.id, task.type) for task in tasks]
        )
        await failpoints.hit("enqueue.published")
        self._confirmed(
            {
                request.task.id: stored[request.task.id]
                for request, refused in zip(due, results, strict=True)
                if refused is None
            }
        )
        refused = {request.task.id: reason for request, reason in zip(due, results, strict=True) if reason is not None}
        gone: set[UUID] = set()
        if refused and not self._accept_when_down:
            with _answering([request for request in due if request.task.id in refused]):
                gone = await self._undo(dedicated, refused)
        for request in due:
            if request.task.id in gone:
                request.fail(Unavailable(f"RabbitMQ did not accept the task: {refused[request.task.id]}"))
            else:
                request.resolve(None)

    async def _undo(self, dedicated: DedicatedConnection, refused: dict[UUID, str]) -> set[UUID]:
        """Take back refused tasks; if the database is down too, they stay, and the relay publishes them.

        Raises:
            Unavailable: the database's answer was lost: whether the tasks stay is unknown.
        """
        try:
            gone = await store.undo(dedicated, sorted(refused))
            await failpoints.hit("enqueue.undone")
        except Unavailable as error:
            if error.in_doubt:
                raise
            _log.warning("refused task deletion failed", tasks=len(refused), reason=str(error))
            return set()
        _log.warning("refused tasks deleted", tasks=len(gone), reason=next(iter(refused.values())))
        return gone

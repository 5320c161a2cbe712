"""The slots of a worker: starts handlers, stops them, and hands over each ended attempt.

Does not claim or release tasks.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Final
from uuid import UUID

import structlog

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import Attempt, decide
from dtq.domain.window import SOON_SECONDS
from dtq.runtime import failpoints
from dtq.runtime.deadlines import Deadline
from dtq.runtime.loops import wait
from dtq.runtime.metrics import Children, WorkerMetrics
from dtq_db.attempts import Claim
from dtq_worker.attempt_log import AttemptLog
from dtq_worker.finisher import Finisher
from dtq_worker.runner import DRAIN, Runner, timed_out

RUN_SHARE: Final = 0.1
"""Weight of the latest run in the average run time."""
STOP_SECONDS: Final = 5.0
"""How long a handler may take to end after it was told to stop, in seconds."""

_log = structlog.get_logger(__name__)


class RunningTasks:
    """Runs claimed tasks.

    Args:
        concurrency: slots: the number of handlers that may run at a time.
        by_queue: the number of handlers by `queue set/queue`, which the lease reports.
        on_start: called when a task begins to count as running.
        backoff: for types that declare none.
    """

    def __init__(
        self,
        runner: Runner,
        finisher: Finisher,
        *,
        concurrency: int,
        by_queue: Counter[str],
        on_start: Callable[[], None],
        backoff: Backoff,
        metrics: WorkerMetrics,
    ) -> None:
        self._runner = runner
        self._deadlines = runner.deadlines
        self._finisher = finisher
        self._concurrency = concurrency
        self._by_queue = by_queue
        self._on_start = on_start
        self._backoff = backoff
        self._metrics = metrics
        self._running: dict[UUID, asyncio.Task[None]] = {}
        self._started_at: dict[UUID, float] = {}
        self._stubborn: set[asyncio.Task[None]] = set()
        self._slot_free = asyncio.Event()
        self._attempts = AttemptLog(time.monotonic)
        self._seconds = Children(metrics.run_seconds)
        metrics.running.set_function(self.__len__)
        self.run_seconds: float | None = None
        """Average run time of this worker's handlers; None if no handler has ended yet."""
        self.bug: BaseException | None = None
        """An error outside a handler: it ends the worker."""

    def __len__(self) -> int:
        """Return the number of running handlers."""
        return len(self._running)

    def __contains__(self, id_: object) -> bool:
        """Return whether a task runs."""
        return id_ in self._running

    @property
    def ids(self) -> Collection[UUID]:
        """The running tasks."""
        return self._running.keys()

    @property
    def free_slots(self) -> int:
        """How many more handlers may run."""
        return self._concurrency - len(self._running)

    @property
    def moving_slots(self) -> int:
        """Slots that are free or whose handlers have not run for long."""
        since = time.monotonic() - SOON_SECONDS
        return self._concurrency - sum(started_at < since for started_at in self._started_at.values())

    @property
    def is_held_up(self) -> bool:
        """Whether handlers that could not be stopped are still running."""
        return bool(self._running or self._stubborn)

    async def wait_for_slot(self, seconds: float) -> None:
        """Wait until a handler ends, for a bounded time."""
        self._slot_free.clear()
        await wait(self._slot_free, seconds)

    def start(self, worker_id: UUID, claim: Claim) -> None:
        """Start a claimed task."""
        task = asyncio.get_running_loop().create_task(self._attempt(worker_id, claim))
        self._running[claim.id] = task
        self._started_at[claim.id] = time.monotonic()
        self.count(claim, 1)
        give_up = partial(self._give_up, worker_id, claim, task)
        bound = self._deadlines.start(claim.timeout_seconds + STOP_SECONDS, give_up)
        task.add_done_callback(partial(self._ended, claim, bound))

    def count(self, claim: Claim, number: int) -> None:
        """Count a task as running, or no longer: a suspect that waits here for its turn counts too."""
        self._by_queue[f"{claim.queue_set}/{claim.queue}"] += number
        if number > 0:
            self._on_start()

    def cancel(self, ids: Iterable[UUID], reason: str) -> None:
        """Tell the handlers of these tasks to stop."""
        for id_ in ids:
            if (task := self._running.get(id_)) is not None:
                task.cancel(reason)

    async def drain(self, grace_seconds: float) -> None:
        """Let running handlers end within the grace period, then stop them without cost to their tasks."""
        if self._running:
            _log.info("drain started", running=len(self._running), grace_seconds=grace_seconds)
            await asyncio.wait(self._running.values(), timeout=grace_seconds)
        self.cancel(list(self._running), DRAIN)
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=STOP_SECONDS)

    async def _attempt(self, worker_id: UUID, claim: Claim) -> None:
        structlog.contextvars.bind_contextvars(task_id=str(claim.id), type=claim.type, attempt=claim.attempt)
        started = time.perf_counter()
        self._attempts.started(claim)
        await failpoints.hit("run.started")
        ended = await self._runner.run(claim)
        await failpoints.hit("run.ended")
        seconds = time.perf_counter() - started
        self._seconds[(claim.type,)].observe(seconds)
        self._attempts.ended(claim, ended, seconds)
        before = seconds if self.run_seconds is None else self.run_seconds
        self.run_seconds = before + RUN_SHARE * (seconds - before)
        if asyncio.current_task() not in self._stubborn:
            self._record(worker_id, claim, ended)

    def _record(self, worker_id: UUID, claim: Claim, ended: Attempt) -> None:
        decision = decide(ended, claim.backoff or self._backoff, random.random())  # noqa: S311
        self._finisher.add(worker_id, claim, decision)

    def _give_up(self, worker_id: UUID, claim: Claim, task: asyncio.Task[None]) -> None:
        """Record the time-out of a handler that swallows its cancellation; it runs on, since it cannot be stopped."""
        if self._running.get(claim.id) is not task:
            return
        _log.error("cancellation ignored", type=claim.type, task_id=str(claim.id))
        del self._running[claim.id]
        self._started_at.pop(claim.id, None)
        self._stubborn.add(task)
        self._slot_free.set()
        self._record(worker_id, claim, timed_out(claim))

    def _ended(self, claim: Claim, bound: Deadline, task: asyncio.Task[None]) -> None:
        self._deadlines.cancel(bound)
        self._stubborn.discard(task)
        self.count(claim, -1)
        if self._running.get(claim.id) is task:
            del self._running[claim.id]
            self._started_at.pop(claim.id, None)
        self._slot_free.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("worker crashed", task_id=str(claim.id), exc_info=error)
            self.bug = error

"""The lease: a worker's right to run the tasks that it claimed, renewed from a thread of its own.

A handler that blocks the event loop cannot starve the renewal thread. A worker that cannot renew its lease is fenced
before another worker may take its tasks. An expired lease is never renewed: the next lease has a new id.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol
from uuid import UUID, uuid4

import structlog

from dtq.domain.errors import Stale, Unavailable
from dtq.domain.limits import LEASE_MARGIN_SECONDS, LEASE_RENEW_SECONDS, LEASE_SECONDS
from dtq.domain.memory import Memory
from dtq.runtime import failpoints
from dtq_db.attempts import LeaseStore
from dtq_db.connections import Dsn
from dtq_worker.event_loop import LeaseLoop

WATCH_SECONDS: Final = 0.2
"""How often a worker with running tasks checks whether its memory is about to run out, in seconds."""
RETRY_SECONDS: Final = 0.5
"""Pause after a failed renewal, in seconds: several tries fit before the fence."""
JOIN_SECONDS: Final = 10.0
"""Longest wait for the thread at shutdown, in seconds."""

_log = structlog.get_logger(__name__)


class OnFence(Protocol):
    """Called when a lease is lost.

    `postgres_was_away`: the worker asked Postgres in time, and Postgres did not answer. Otherwise the worker was late:
    it was frozen, or a handler kept every thread from running.
    """

    def __call__(self, worker_id: UUID, *, postgres_was_away: bool) -> None:
        """Stop the handlers that run under the lease of `worker_id`."""


class Lease:
    """The successive leases of one worker.

    Args:
        running: handlers running now by `queue set/queue`; changed by the event loop, read here.
        on_cancel: called in the event loop with running tasks to cancel.
        on_fence: called in the event loop when the lease can no longer be relied on.
        memory: returns the worker's memory report, which helps to explain the loss of the worker.
    """

    def __init__(
        self,
        dsn: Dsn,
        *,
        name: str,
        namespace: str,
        queues: Sequence[str],
        types: Sequence[str],
        concurrency: int,
        running: Mapping[str, int],
        on_cancel: Callable[[list[UUID]], None],
        on_fence: OnFence,
        memory: Callable[[], Memory | None],
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._namespace = namespace
        self._queues = queues
        self._types = types
        self._concurrency = concurrency
        self._running = running
        self._on_cancel = on_cancel
        self._on_fence = on_fence
        self._memory = memory
        self._told_of_memory = False
        self._id: UUID | None = None
        self._valid_until = 0.0
        self._ending = threading.Event()
        self._is_resting = False
        self._called = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="dtq-lease", daemon=True)

    def start(self) -> None:
        """Start the renewal thread."""
        self._thread.start()

    @property
    def worker_id(self) -> UUID | None:
        """The id of the lease in force, or None if nothing may be claimed."""
        return self._id if time.monotonic() < self._valid_until else None

    async def held(self) -> None:
        """Wait until the last lease has ended; a bug in the renewal thread is raised here."""
        await self._ended

    async def end(self) -> None:
        """End the lease: tasks that are still held may be taken back at once."""
        self._ending.set()
        self._called.set()
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)

    def watch(self) -> None:
        """Watch the worker's memory from now on: a task runs."""
        if self._is_resting:
            self._called.set()

    def _run(self) -> None:
        bug: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=LeaseLoop) as runner:
                runner.run(self._renew_for_ever())
        except Exception as error:  # noqa: BLE001 - it is raised in `held`
            bug = error
        with suppress(RuntimeError):  # the loop is closed: nothing waits for the result
            self._loop.call_soon_threadsafe(self._settle, bug)

    def _settle(self, bug: BaseException | None) -> None:
        if self._ended.done():
            return
        if bug is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(bug)

    async def _renew_for_ever(self) -> None:
        store = LeaseStore(self._dsn)
        try:
            while not self._ending.is_set():
                await self._hold_one(store)
        finally:
            if self._id is not None:
                try:
                    await store.expire(self._id)
                except Unavailable as error:
                    _log.warning("lease release failed", reason=str(error))
            await store.close()

    async def _hold_one(self, store: LeaseStore) -> None:
        """Register a new lease and renew it until it is lost."""
        worker_id = uuid4()
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(LEASE_SECONDS):
                await store.register(
                    worker_id,
                    name=self._name,
                    namespace=self._namespace,
                    queues=self._queues,
                    types=self._types,
                    concurrency=self._concurrency,
                    memory=self._memory(),
                )
                await failpoints.hit("lease.registered")
        except (Unavailable, TimeoutError) as error:
            _log.warning("lease request failed", reason=str(error))
            self._ending.wait(RETRY_SECONDS)
            return
        self._granted(worker_id, asked_at)
        while not self._ends_before_renewal():
            if not await self._renewed(store, worker_id):
                return

    def _ends_before_renewal(self) -> bool:
        """Wait until it is time to renew, or until memory is about to run out; return whether to end."""
        until = time.monotonic() + LEASE_RENEW_SECONDS
        while (left := until - time.monotonic()) > 0:
            self._wait(left)
            if self._ending.is_set():
                return True
            memory = self._memory()
            runs_out = memory is not None and memory.is_near_limit
            if runs_out and not self._told_of_memory:
                self._told_of_memory = True
                return False
            self._told_of_memory = runs_out
        return self._ending.is_set()

    def _wait(self, seconds: float) -> None:
        """Wait until it is time to look at the memory: while no task runs, its use explains no loss of a task."""
        self._called.clear()
        self._is_resting = True  # before the look at what runs: a task that starts after it calls
        if any(dict(self._running).values()):
            seconds = min(seconds, WATCH_SECONDS)
        if not self._ending.is_set():
            self._called.wait(seconds)
        self._is_resting = False

    async def _renewed(self, store: LeaseStore, worker_id: UUID) -> bool:
        """Renew once, trying again until the fence; return whether the lease is still in force."""
        postgres_was_away = False
        while time.monotonic() < self._valid_until and not self._ending.is_set():
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(max(0.1, self._valid_until - asked_at)):
                    cancelled = await store.renew(worker_id, dict(self._running), self._memory())
                    await failpoints.hit("lease.renewed")
            except Stale:
                break
            except (Unavailable, TimeoutError) as error:
                postgres_was_away = True
                _log.warning("lease renewal failed", reason=str(error))
                self._ending.wait(RETRY_SECONDS)
                continue
            # Counted from before the request: the database counts from a later moment.
            self._valid_until = asked_at + LEASE_SECONDS - LEASE_MARGIN_SECONDS
            if cancelled:
                self._loop.call_soon_threadsafe(self._on_cancel, cancelled)
            return True
        if not self._ending.is_set():
            self._id = None
            self._loop.call_soon_threadsafe(self._fence, worker_id, postgres_was_away)
        return False

    def _granted(self, worker_id: UUID, asked_at: float) -> None:
        self._valid_until = asked_at + LEASE_SECONDS - LEASE_MARGIN_SECONDS
        self._id = worker_id
        _log.info("lease granted", worker_id=str(worker_id))

    def _fence(self, worker_id: UUID, postgres_was_away: bool) -> None:  # noqa: FBT001 - call_soon has no keywords
        _log.error("lease lost", worker_id=str(worker_id))
        self._on_fence(worker_id, postgres_was_away=postgres_was_away)

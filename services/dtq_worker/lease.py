"""The lease: a worker's right to run what it claimed, renewed from a thread of its own.

Owns the renewal thread. A handler that blocks the event loop cannot starve it, and a worker that cannot renew
is fenced before anybody else may take its tasks. An expired lease never comes back: the next one has a new id.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final
from uuid import UUID, uuid4

import structlog

from dtq.domain.errors import Stale, Unavailable
from dtq.domain.limits import LEASE_MARGIN_SECONDS, LEASE_RENEW_SECONDS, LEASE_SECONDS
from dtq.runtime import failpoints
from dtq_db.attempts import LeaseStore
from dtq_db.connections import Dsn
from dtq_worker.event_loop import LeaseLoop

RETRY_SECONDS: Final = 0.5
"""Pause after a renewal that failed, in seconds: several tries fit before the fence."""
JOIN_SECONDS: Final = 10.0
"""Longest wait for the thread at the end, in seconds."""

_log = structlog.get_logger(__name__)


class Lease:
    """One worker's succession of leases.

    Args:
        running: handlers running now by `queue set/queue`; changed by the event loop, read here.
        on_cancel: called in the event loop with running tasks that are to be cancelled.
        on_fence: called in the event loop when the lease can no longer be relied on.
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
        on_fence: Callable[[UUID], None],
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
        self._id: UUID | None = None
        self._valid_until = 0.0
        self._ending = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="dtq-lease", daemon=True)

    def start(self) -> None:
        """Begin to hold leases."""
        self._thread.start()

    @property
    def worker_id(self) -> UUID | None:
        """The id of the lease in force, or None: nothing may be claimed then."""
        return self._id if time.monotonic() < self._valid_until else None

    async def held(self) -> None:
        """Wait until the last lease has ended; a bug of the thread that renews it is raised here."""
        await self._ended

    async def end(self) -> None:
        """End the lease: what is still held may be taken back at once."""
        self._ending.set()
        await asyncio.to_thread(self._thread.join, JOIN_SECONDS)

    def _run(self) -> None:
        bug: BaseException | None = None
        try:
            with asyncio.Runner(loop_factory=LeaseLoop) as runner:
                runner.run(self._renew_for_ever())
        except Exception as error:  # noqa: BLE001 - it is raised in `held`
            bug = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
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
                    _log.warning("the lease runs out by itself", reason=str(error))
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
                )
                await failpoints.hit("lease.registered")
        except (Unavailable, TimeoutError) as error:
            _log.warning("no lease yet", reason=str(error))
            self._ending.wait(RETRY_SECONDS)
            return
        self._granted(worker_id, asked_at)
        while not self._ending.wait(LEASE_RENEW_SECONDS):
            if not await self._renewed(store, worker_id):
                return

    async def _renewed(self, store: LeaseStore, worker_id: UUID) -> bool:
        """Renew once, trying again until the fence; return whether the lease still holds."""
        while time.monotonic() < self._valid_until and not self._ending.is_set():
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(max(0.1, self._valid_until - asked_at)):
                    cancelled = await store.renew(worker_id, dict(self._running))
                    await failpoints.hit("lease.renewed")
            except Stale:
                break
            except (Unavailable, TimeoutError) as error:
                _log.warning("renewing the lease failed", reason=str(error))
                self._ending.wait(RETRY_SECONDS)
                continue
            # Counted from before the question: the database counted from some time after it.
            self._valid_until = asked_at + LEASE_SECONDS - LEASE_MARGIN_SECONDS
            if cancelled:
                self._loop.call_soon_threadsafe(self._on_cancel, cancelled)
            return True
        if not self._ending.is_set():
            self._id = None
            self._loop.call_soon_threadsafe(self._fence, worker_id)
        return False

    def _granted(self, worker_id: UUID, asked_at: float) -> None:
        self._valid_until = asked_at + LEASE_SECONDS - LEASE_MARGIN_SECONDS
        self._id = worker_id
        _log.info("lease held", worker_id=str(worker_id))

    def _fence(self, worker_id: UUID) -> None:
        _log.error("lease lost: its tasks are stopped and left to others", worker_id=str(worker_id))
        self._on_fence(worker_id)

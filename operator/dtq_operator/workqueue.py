"""The work queue: keys to reconcile, each at most once at a time, with a back-off per key.

It coalesces events: a hundred events of one object are one reconcile.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, TypeVar

import structlog

from dtq.runtime.loops import Retries, wait

RETRY_SECONDS_FIRST: Final = 0.5
RETRY_SECONDS_MAX: Final = 300.0
"""Longest pause of a key that fails repeatedly, in seconds."""

K = TypeVar("K", bound=Hashable)
_log = structlog.get_logger(__name__)


class WorkQueue(Generic[K]):
    """Calls `work` for each key that was added.

    Args:
        work: reconciles a key; returns the seconds until it should be called again, or None.
            After an exception it is called again, at growing intervals.
        concurrency: keys under way at once.
    """

    def __init__(self, work: Callable[[K], Awaitable[float | None]], *, concurrency: int) -> None:
        self._work = work
        self._concurrency = concurrency
        self._due: dict[K, float] = {}
        self._busy: set[K] = set()
        self._again: set[K] = set()
        self._retries: dict[K, Retries] = {}
        self._changed = asyncio.Event()

    @property
    def depth(self) -> int:
        """Keys that are due or under way."""
        now = time.monotonic()
        return len(self._busy) + sum(due <= now for due in self._due.values())

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest due key has waited, in seconds."""
        return max(0.0, time.monotonic() - min(self._due.values(), default=time.monotonic()))

    def add(self, key: K, *, after_seconds: float = 0.0) -> None:
        """Queue a key, no later than an earlier request for it."""
        if key in self._busy and not after_seconds:
            self._again.add(key)
            return
        due = time.monotonic() + after_seconds
        self._due[key] = min(due, self._due.get(key, due))
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Reconcile until `stop`."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(self._concurrency):
                workers.create_task(self._serve(stop))
            await stop.wait()
            self._changed.set()

    async def _serve(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            key = self._next()
            if key is None:
                self._changed.clear()
                soonest = min(self._due.values(), default=time.monotonic() + 1.0) - time.monotonic()
                await wait(self._changed, max(0.01, min(1.0, soonest)))
                continue
            await self._one(key)

    def _next(self) -> K | None:
        now = time.monotonic()
        ready = [key for key, due in self._due.items() if due <= now and key not in self._busy]
        if not ready:
            return None
        key = min(ready, key=self._due.__getitem__)
        del self._due[key]
        self._busy.add(key)
        return key

    async def _one(self, key: K) -> None:
        again_after: float | None = None
        try:
            again_after = await self._work(key)
            self._retries.pop(key, None)
        except Exception as error:  # noqa: BLE001 - one object's bug must not stop the others
            retries = self._retries.setdefault(
                key, Retries(first_seconds=RETRY_SECONDS_FIRST, longest_seconds=RETRY_SECONDS_MAX)
            )
            retries.failed()
            again_after = retries.seconds
            _log.error("reconcile failed", key=str(key), again_after=again_after, exc_info=error)
        finally:
            self._busy.discard(key)
        if key in self._again:
            self._again.discard(key)
            again_after = 0.0
        if again_after is not None:
            self.add(key, after_seconds=again_after)

"""The circuit breaker: one per backend, so that an outage is met once and not once per object.

Holds the keys that wait for the backend. An outage must not make the process unhealthy.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

from dtq.domain.errors import Unavailable
from dtq.runtime.loops import Retries, wait

K = TypeVar("K")
PROBE_SECONDS: Final = 1.0
"""Pause before the first probe of a backend that is down, in seconds; later pauses are longer."""

_log = structlog.get_logger(__name__)


class Breaker(Generic[K]):
    """Parks keys while a backend is down.

    Args:
        name: the name of the backend, for logs and metrics.
        probe: raises Unavailable while the backend is down.
        release: called with each parked key when the backend is back.
    """

    def __init__(self, name: str, probe: Callable[[], Awaitable[object]], release: Callable[[K], None]) -> None:
        self.name = name
        self._probe = probe
        self._release = release
        self._parked: set[K] = set()
        self._tripped = asyncio.Event()
        self.error: Unavailable | None = None
        """Why the last probe failed."""

    @property
    def is_open(self) -> bool:
        """Whether the backend is down."""
        return self._tripped.is_set()

    def trip(self, key: K) -> None:
        """Park a key until the backend is back."""
        if not self.is_open:
            _log.warning("backend unavailable", backend=self.name, reason=str(self.error or ""))
        self._parked.add(key)
        self._tripped.set()

    async def is_down(self) -> bool:
        """Return whether the backend itself is down: a failed call may have another cause."""
        try:
            await self._probe()
        except Unavailable as error:
            self.error = error
            return True
        return False

    async def run(self, stop: asyncio.Event) -> None:
        """Probe an open breaker until the backend is back, then release the parked keys."""
        retries = Retries(first_seconds=PROBE_SECONDS)
        while not stop.is_set():
            if not self.is_open:
                await wait(self._tripped, PROBE_SECONDS)
                continue
            retries.failed()
            await retries.pause(stop)
            if await self.is_down():
                continue
            retries.succeeded()
            parked, self._parked = self._parked, set()
            self._tripped.clear()
            _log.info("backend recovered", backend=self.name, parked=len(parked))
            for key in parked:
                self._release(key)

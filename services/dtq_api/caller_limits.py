"""Limits per caller and replica: requests per second, and lists read at the same time.

A caller beyond a limit gets 429 `TooManyRequests`; the requests of others are not affected.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import structlog

from dtq.domain.errors import Rejected
from dtq.runtime.logs import RareWarnings
from dtq.runtime.loops import acquire

BURST_SECONDS: Final = 5.0
"""How much of the requests per second a caller may send at once after a pause, in seconds."""
LISTS_WAITING_MAX: Final = 32
"""Most lists of one caller that wait for their turn."""
LIST_TURN_SECONDS: Final = 2.0
"""Longest wait of a list for its turn, in seconds."""
CALLERS_MAX: Final = 10_000
"""Most callers that are remembered; with more of them, all of them are forgotten."""

_log = structlog.get_logger(__name__)


class CallerLimits:
    """The limits of all callers.

    Args:
        requests_per_second: a caller's requests, on average; a burst may have BURST_SECONDS times as many.
        lists: most lists of one caller that are read at the same time.
        clock: returns a monotonic time, in seconds.
    """

    def __init__(self, *, requests_per_second: int, lists: int, clock: Callable[[], float]) -> None:
        self._requests_per_second = requests_per_second
        self._interval_seconds = 1 / requests_per_second
        self._lists_max = lists
        self._clock = clock
        self._rested_at: dict[str, float] = {}
        """When each caller may send a whole burst again."""
        self._lists: dict[str, _Lists] = {}
        self._warnings = RareWarnings(clock)

    def admit(self, caller: str, requests: int = 1) -> None:
        """Count a request, or the items of one as requests.

        Raises:
            Rejected: `TooManyRequests`: the caller sends too many, and this one is not counted.
        """
        now = self._clock()
        rested_at = max(self._rested_at.get(caller, now), now) + requests * self._interval_seconds
        # Sums of floats round: half a request too many is none.
        if (early := rested_at - now - BURST_SECONDS) > self._interval_seconds / 2:
            raise self._refused(
                caller,
                f"{caller} sends more than {self._requests_per_second} requests per second: send fewer, or have"
                " DTQ_CALLER_REQUESTS_PER_SECOND raised",
                early,
            )
        if len(self._rested_at) >= CALLERS_MAX and caller not in self._rested_at:
            self._rested_at.clear()
        self._rested_at[caller] = rested_at

    @asynccontextmanager
    async def list_turn(self, caller: str) -> AsyncIterator[None]:
        """Wait until the caller may read one more list; the others wait while the body runs.

        Raises:
            Rejected: `TooManyRequests`: too many lists of the caller are read or wait.
        """
        lists = self._lists.setdefault(caller, _Lists(self._lists_max))
        if lists.open >= self._lists_max + LISTS_WAITING_MAX:
            raise self._too_many_lists(caller)
        lists.open += 1
        try:
            if not await acquire(lists.turns, LIST_TURN_SECONDS):
                raise self._too_many_lists(caller)
            try:
                yield
            finally:
                lists.turns.release()
        finally:
            lists.open -= 1
            if not lists.open:
                del self._lists[caller]

    def _too_many_lists(self, caller: str) -> Rejected:
        return self._refused(
            caller,
            f"{self._lists_max} lists of {caller} are being read already: wait for their answers, or have"
            " DTQ_CALLER_LISTS raised",
            1.0,
        )

    def _refused(self, caller: str, message: str, seconds: float) -> Rejected:
        if self._warnings.is_due(caller):
            _log.warning("caller limited", caller=caller, reason=message)
        return Rejected("TooManyRequests", message, retry_after_seconds=max(1, math.ceil(seconds)))


class _Lists:
    """The lists of one caller that are read, or wait for their turn."""

    def __init__(self, reading_max: int) -> None:
        self.turns = asyncio.Semaphore(reading_max)
        self.open = 0

"""Limits per caller and replica: requests per second, and what of a caller may be under way at the same time.

A caller beyond a limit waits, or gets 429 `TooManyRequests`; the requests of others are not affected.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import structlog

from dtq.domain.errors import Rejected
from dtq.runtime.logs import RareWarnings
from dtq_api.caller_turns import CallerTurns

BURST_SECONDS: Final = 5.0
"""How much of the requests per second a caller may send at once after a pause, in seconds."""
LISTS_WAITING_MAX: Final = 32
"""Most lists of one caller that wait for their turn."""
LIST_TURN_SECONDS: Final = 2.0
"""Longest wait of a list for its turn, in seconds."""
REQUESTS_WAITING_MAX: Final = 1_000
"""Most requests of one caller that wait for their turn."""
REQUEST_TURN_SECONDS: Final = 10.0
"""Longest wait of a request for its turn, in seconds."""
LARGE_BODY_BYTES: Final = 16_384
"""Largest body that needs no turn before it is read, in bytes: so many as there may be connections fit into memory."""
LARGE_BODIES: Final = 4
"""Most large bodies of one caller that are read or worked on at the same time."""
LARGE_BODIES_IN_ALL: Final = 16
"""… of all callers: each needs up to 1 MiB, and again as much while its payload is checked."""
REFUSALS_PER_SECOND: Final = 100
"""How many refusals, for a bad token or a rate, a replica answers per second; further ones wait."""
REFUSAL_SECONDS_MAX: Final = 10.0
"""Longest wait of a refusal, in seconds."""
CALLERS_MAX: Final = 10_000
"""Most callers that are remembered; with more of them, all of them are forgotten."""

_log = structlog.get_logger(__name__)


class CallerLimits:
    """The limits of all callers.

    Args:
        requests_per_second: a caller's requests, on average; a burst may have BURST_SECONDS times as many.
        requests: most requests of one caller that are worked on at the same time.
        lists: most lists of one caller that are read at the same time.
        clock: returns a monotonic time, in seconds.
    """

    def __init__(self, *, requests_per_second: int, requests: int, lists: int, clock: Callable[[], float]) -> None:
        self._requests_per_second = requests_per_second
        self._interval_seconds = 1 / requests_per_second
        self._clock = clock
        self._rested_at: dict[str, float] = {}
        """When each caller may send a whole burst again."""
        self._refusals_rested_at = 0.0
        """When a whole second's refusals may be answered at once again."""
        self._warnings = RareWarnings(clock)
        self.requests = self._turns(
            requests, REQUESTS_WAITING_MAX, REQUEST_TURN_SECONDS, "requests", "have DTQ_CALLER_REQUESTS_AT_ONCE raised"
        )
        self.lists = self._turns(lists, LISTS_WAITING_MAX, LIST_TURN_SECONDS, "lists", "have DTQ_CALLER_LISTS raised")
        large = partial(self._turns, waiting_max=REQUESTS_WAITING_MAX, wait_seconds=REQUEST_TURN_SECONDS)
        self._large_bodies = large(LARGE_BODIES, what="large bodies", remedy="send smaller ones")
        self._large_bodies_in_all = large(LARGE_BODIES_IN_ALL, what="large bodies", remedy="send smaller ones")

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

    async def pace_refusal(self) -> None:
        """Wait before a refusal if there are many: a client that tries again at once must not use up the replica."""
        now = self._clock()
        rested_at = max(self._refusals_rested_at, now) + 1 / REFUSALS_PER_SECOND
        self._refusals_rested_at = min(rested_at, now + 1 + REFUSAL_SECONDS_MAX)
        if (early := rested_at - now - 1) > 0:
            await asyncio.sleep(min(early, REFUSAL_SECONDS_MAX))

    @asynccontextmanager
    async def large_body(self, caller: str) -> AsyncIterator[None]:
        """Wait until one more large body of the caller may be read; others wait while the body of the block runs.

        Raises:
            Rejected: `TooManyRequests`: too many are read or wait.
        """
        async with self._large_bodies.turn(caller), self._large_bodies_in_all.turn("all callers"):
            yield

    def _turns(self, at_once: int, waiting_max: int, wait_seconds: float, what: str, remedy: str) -> CallerTurns:
        def refused(caller: str) -> Rejected:
            message = f"{at_once} {what} of {caller} are under way already: wait for their answers, or {remedy}"
            return self._refused(caller, message, 1.0)

        return CallerTurns(at_once=at_once, waiting_max=waiting_max, wait_seconds=wait_seconds, refused=refused)

    def _refused(self, caller: str, message: str, seconds: float) -> Rejected:
        if self._warnings.is_due(caller):
            _log.warning("caller limited", caller=caller, reason=message)
        return Rejected("TooManyRequests", message, retry_after_seconds=max(1, math.ceil(seconds)))

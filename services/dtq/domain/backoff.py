"""Back-off: how long a failed task waits before its next attempt.

Draws no random number: the caller passes it in.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from dtq.domain.limits import DELAY_SECONDS_MAX


class Strategy(StrEnum):
    """Which rule picks the delay."""

    LIST = "List"
    FIXED = "Fixed"
    EXPONENTIAL = "Exponential"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """A back-off policy; the defaults are the origin's.

    Attributes:
        delays_seconds: for `List`: the delay after attempt 1, 2, …; the last one repeats.
        delay_seconds: for `Fixed`: the delay after every attempt.
        base_seconds, factor, max_seconds: for `Exponential`: base * factor ** (attempt - 1), capped.
        jitter_percent: the largest share of the delay that jitter may take away, 0..100. Jitter never adds.
    """

    strategy: Strategy = Strategy.LIST
    delays_seconds: tuple[float, ...] = (5.0, 30.0, 120.0, 600.0, 3600.0)
    delay_seconds: float = 30.0
    base_seconds: float = 5.0
    factor: float = 6.0
    max_seconds: float = 3600.0
    jitter_percent: float = 0.0

    def unjittered_seconds(self, attempt: int) -> float:
        """Return the delay after the failed attempt number `attempt` (from 1), before jitter, in seconds."""
        match self.strategy:
            case Strategy.LIST:
                delay = self.delays_seconds[min(attempt, len(self.delays_seconds)) - 1]
            case Strategy.FIXED:
                delay = self.delay_seconds
            case Strategy.EXPONENTIAL:
                delay = self._exponential_seconds(attempt)
            case _:
                assert_never(self.strategy)
        return min(delay, float(DELAY_SECONDS_MAX))

    def _exponential_seconds(self, attempt: int) -> float:
        try:
            return min(self.base_seconds * self.factor ** (attempt - 1), self.max_seconds)
        except OverflowError:
            return self.max_seconds

    def jittered_seconds(self, attempt: int, chance: float) -> float:
        """Return the delay after `attempt` with jitter; `chance`, in 0..1, is the only source of randomness."""
        return self.unjittered_seconds(attempt) * (1.0 - chance * self.jitter_percent / 100.0)

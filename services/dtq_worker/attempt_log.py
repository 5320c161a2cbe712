"""Logs the start, the end and the error of each attempt.

Starts and successes are logged at level debug: at a worker's full rate they would cost more than the tasks themselves.
Failures are logged at level warning, at a bounded rate; the metrics count all of them.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

import structlog

from dtq.domain.decisions import Attempt, cut, cut_traceback
from dtq.domain.states import Outcome
from dtq_db.attempts import Claim

FAILURES_PER_SECOND_MAX: Final = 20
"""Most failures logged per second: a person reads no more, and a broken dependency fails thousands of tasks."""
_FAILURES: Final = frozenset({Outcome.FAILED, Outcome.TIMED_OUT, Outcome.REJECTED})

_log = structlog.get_logger(__name__)


class AttemptLog:
    """Writes the log lines for one worker's attempts.

    Args:
        clock: a monotonic clock, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._shows_all = _log.is_enabled_for(logging.DEBUG)
        self._second = 0
        self._written = 0
        self._left_out = 0

    def started(self, claim: Claim) -> None:
        """Log that a handler starts."""
        if self._shows_all:
            _log.debug("attempt started", task_id=str(claim.id), type=claim.type, attempt=claim.attempt)

    def ended(self, claim: Claim, ended: Attempt, seconds: float) -> None:
        """Log how an attempt ended."""
        if ended.outcome not in _FAILURES:
            if self._shows_all:
                _log.debug("attempt ended", **_fields(claim, ended, seconds))
        elif self._may_write():
            fields = _fields(claim, ended, seconds)
            fields |= {"error": cut(ended.error) or "", "traceback": cut_traceback(ended.traceback) or ""}
            _log.warning("attempt failed", max_attempts=claim.max_attempts, **fields)

    def _may_write(self) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._written = second, 0
            if self._left_out:
                _log.warning("attempt failures suppressed", count=self._left_out)
                self._left_out = 0
        self._written += 1
        if self._written > FAILURES_PER_SECOND_MAX:
            self._left_out += 1
            return False
        return True


def _fields(claim: Claim, ended: Attempt, seconds: float) -> dict[str, Any]:
    return {
        "task_id": str(claim.id),
        "type": claim.type,
        "attempt": claim.attempt,
        "outcome": str(ended.outcome),
        "seconds": round(seconds, 3),
    }

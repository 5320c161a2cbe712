"""Decides what happens to a task when an attempt has ended: success, retry or failure.

`dtq_finish` writes the decision to the database if the lease still holds.
"""

from typing import Final, assert_never

import msgspec

from dtq.domain.backoff import Backoff
from dtq.domain.limits import DELAY_SECONDS_MAX, ERROR_CHARS_MAX, RESULT_BYTES_MAX, TRACEBACK_CHARS_MAX
from dtq.domain.states import Outcome, TaskStatus

CRASHES_MAX: Final = 3
"""Most times one task may crash its worker, in attempts; then it is poison and fails permanently."""
SUSPECT_SECONDS_MAX: Final = 3_600.0
"""How long a suspect may wait for a run alone, in seconds. After that, a lost worker is charged to the suspect even if
other tasks ran beside it. Without this bound, workers that never run suspects alone would run such a task for ever."""


class Attempt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One attempt that has ended.

    Attributes:
        attempt: its number, from 1; with the worker it is the fence.
        crashes: how many workers this task has crashed before.
        permanent: the handler said that another attempt is useless.
        delay_seconds: the delay that the handler asked for, in seconds; replaces the back-off's and has the same cap.
        uncounted: how many of the attempts so far the budget and the back-off do not count.
        traceback: where the handler raised `error`.
        alone: the worker ran nothing else at the time, so this task caused its loss.
        neighbours: how many other tasks the lost worker held.
        suspected_seconds: for how long the task has been a suspect; None if it was not a suspect.
        cause: what is known about why the worker was lost.
    """

    outcome: Outcome
    attempt: int
    max_attempts: int
    crashes: int = 0
    error: str | None = None
    result: str | None = None
    permanent: bool = False
    delay_seconds: float | None = None
    uncounted: int = 0
    traceback: str | None = None
    alone: bool = False
    neighbours: int = 0
    suspected_seconds: float | None = None
    cause: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The new state of a task, to be written to the database.

    Attributes:
        status: ENQUEUED means: run again after `delay_seconds`.
        unjittered_seconds: the delay before jitter, which names the retry queue; None if no retry queue applies.
        crashed: the task crashed its worker, which counts against CRASHES_MAX; the task runs alone until it ends.
        suspected: the task may have caused the loss of its worker: it runs again alone, and the attempt is not counted.
        drained: a shutdown cut the attempt short, which must not cost the task its last attempt.
        snoozed: the attempt is not counted; `dtq_finish` bounds how often.
    """

    status: TaskStatus
    outcome: Outcome
    error: str | None = None
    result: str | None = None
    delay_seconds: float = 0.0
    unjittered_seconds: float | None = None
    crashed: bool = False
    drained: bool = False
    snoozed: bool = False
    traceback: str | None = None
    suspected: bool = False


def decide(ended: Attempt, backoff: Backoff, chance: float) -> Decision:
    """Return the decision for an attempt; `chance`, in 0..1, is the only source of randomness, for the jitter."""
    match ended.outcome:
        case Outcome.SUCCEEDED:
            return Decision(status=TaskStatus.SUCCEEDED, outcome=ended.outcome, result=ended.result)
        case Outcome.CANCELLED:
            return Decision(status=TaskStatus.CANCELLED, outcome=ended.outcome, error=cut(ended.error))
        case Outcome.DRAINED:
            return Decision(status=TaskStatus.ENQUEUED, outcome=ended.outcome, error=cut(ended.error), drained=True)
        case Outcome.SNOOZED:
            return Decision(
                status=TaskStatus.ENQUEUED,
                outcome=ended.outcome,
                error=cut(ended.error),
                delay_seconds=_capped(ended.delay_seconds or 0.0),
                snoozed=True,
            )
        case Outcome.LOST:
            return _lost(ended, backoff, chance)
        case Outcome.FAILED | Outcome.TIMED_OUT | Outcome.REJECTED:
            permanent = ended.permanent or ended.outcome is Outcome.REJECTED
            return _retry_or_fail(ended, backoff, chance, fail=permanent)
        case _:
            assert_never(ended.outcome)


def _lost(ended: Attempt, backoff: Backoff, chance: float) -> Decision:
    """Charge the loss of a worker to a task that ran alone; make any other task a suspect."""
    if not ended.alone and (ended.suspected_seconds or 0.0) < SUSPECT_SECONDS_MAX:
        beside = f"; it ran beside {ended.neighbours} other tasks" if ended.neighbours else ""
        error = f"worker lost: this task runs again alone, and the attempt is not counted{beside}"
        return Decision(status=TaskStatus.ENQUEUED, outcome=ended.outcome, error=error, suspected=True)
    crashes = ended.crashes + 1
    poison = crashes >= CRASHES_MAX
    how = "alone each time" if ended.alone else "and no worker could run it alone"
    error = f"worker lost {crashes} time{'s' if crashes > 1 else ''} while it ran this task, {how}; {ended.cause}"
    return _retry_or_fail(ended, backoff, chance, fail=poison, error=error, crashed=True)


def _retry_or_fail(
    ended: Attempt,
    backoff: Backoff,
    chance: float,
    *,
    fail: bool,
    error: str | None = None,
    crashed: bool = False,
) -> Decision:
    text = cut(error if error is not None else ended.error)
    traceback = cut_traceback(ended.traceback)
    asked = ended.delay_seconds
    if fail or ended.attempt >= ended.max_attempts:
        if asked is not None and not fail:
            last = f"attempt {ended.attempt} of {ended.max_attempts} was the last (Snooze does not count as an attempt)"
            text = cut(f"{text}: {last}")
        return Decision(
            status=TaskStatus.FAILED, outcome=ended.outcome, error=text, crashed=crashed, traceback=traceback
        )
    counted = max(1, ended.attempt - ended.uncounted)
    return Decision(
        status=TaskStatus.ENQUEUED,
        outcome=ended.outcome,
        error=text,
        delay_seconds=backoff.jittered_seconds(counted, chance) if asked is None else _capped(asked),
        unjittered_seconds=backoff.unjittered_seconds(counted) if asked is None else None,
        crashed=crashed,
        traceback=traceback,
    )


def _capped(seconds: float) -> float:
    return min(seconds, float(DELAY_SECONDS_MAX))


def describe(error: BaseException) -> str:
    """Return an error as `last_error` shows it."""
    name, text = type(error).__name__, message_of(error)
    return f"{name}: {text}" if text else name


def message_of(error: BaseException) -> str:
    """Return an error's message, even if its `__str__` fails."""
    try:
        return str(error)
    except BaseException as broken:  # noqa: BLE001 - a foreign class may raise anything
        return f"its message cannot be read: {type(broken).__name__}"


def too_large(result_bytes: int) -> str:
    """Return the error text for a result that is too large to be kept."""
    return f"the result has {result_bytes} bytes; at most {RESULT_BYTES_MAX} are kept: store it elsewhere"


def cut(text: str | None) -> str | None:
    """Return `text` in a form that Postgres stores, cut to ERROR_CHARS_MAX."""
    if text is None:
        return None
    safe = storable(text)
    return safe if len(safe) <= ERROR_CHARS_MAX else safe[: ERROR_CHARS_MAX - 1] + "…"


def cut_traceback(text: str | None) -> str | None:
    """Return `text` in a form that Postgres stores, cut to its last TRACEBACK_CHARS_MAX: the end says most."""
    if text is None:
        return None
    safe = storable(text)
    return safe if len(safe) <= TRACEBACK_CHARS_MAX else "…" + safe[1 - TRACEBACK_CHARS_MAX :]


def storable(text: str) -> str:
    """Return `text` without the characters that Postgres refuses: NUL and lone surrogates."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")

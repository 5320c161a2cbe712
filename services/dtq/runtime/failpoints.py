"""Failpoints: named steps at which a test makes a process die, fail, hang or slow down.

Unless DTQ_FAILPOINTS is set, nothing is armed and `hit` is a function that returns at once. A warning in the log says
that it is set. Never set it in production.

    DTQ_FAILPOINTS="claim.committed=kill9@2;relay.picked=slow(0.5)"

Each part is `name=action`, for every time that the step is reached, or `name=action@n` for the n-th time only:

- `kill9`: the process is killed at this instant, as by the kernel or a power cut.
- `raise`: a bug, that is, an unexpected exception: a request is answered 500, a loop starts again, a worker ends.
- `unavailable`: the service of the previous step does not answer: the step took effect, but the answer was lost.
- `hang`: the step never ends; the rest of the process goes on. Code that waits for the step must have a bound.
- `slow(seconds)`: the step takes that much longer.
"""

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import structlog

from dtq.domain.errors import Unavailable

NAMES: Final = {
    "enqueue.inserted": "tasks are committed, nothing is published",
    "enqueue.published": "the broker has answered, nothing is recorded and no request is answered",
    "enqueue.undone": "refused tasks are deleted, no request is answered",
    "enqueue.replayed": "the task of an idempotency key is found, the request is not answered",
    "confirm.noted": "confirms are written in bulk",
    "claim.taken": "deliveries are received, nothing is claimed",
    "claim.committed": "tasks are claimed, nothing is acknowledged",
    "claim.acked": "messages are acknowledged, no handler has begun",
    "claim.released": "claims that never started are released",
    "alone.next": "a suspect is next and nothing else runs, nothing is recorded",
    "alone.committed": "it is recorded that a suspect runs alone, its handler was not called",
    "run.started": "an attempt begins, its handler was not called",
    "run.ended": "a handler has ended, nothing is decided",
    "finish.decided": "the decisions on ended attempts are made, nothing is recorded",
    "finish.committed": "ends of attempts are recorded, no retry or dead letter is published",
    "retry.published": "retries are published, no confirm is recorded",
    "dead_letter.published": "dead letters are published, no confirm is recorded",
    "lease.registered": "a lease begins",
    "lease.renewed": "a lease is extended",
    "drain.started": "the worker is stopping and claims nothing new",
    "drain.ended": "every ended attempt is recorded, the lease is still in force",
    "relay.picked": "due tasks are held, nothing is published",
    "relay.published": "due tasks are published, no confirm is recorded",
    "relay.confirmed": "confirms of the relay are recorded",
    "relay.dead_letters_published": "overdue dead letters are published, the transaction is open",
    "relay.lost_marked": "tasks that the broker lost are marked to be published again",
    "reap.written": "tasks of a lost worker are reaped, the transaction is open",
    "reap.committed": "tasks of a lost worker are reaped",
    "scheduler.fired": "tasks of schedules are stored, the transaction is open",
    "scheduler.committed": "tasks of schedules are stored",
    "prune.committed": "a batch of finished tasks is deleted",
    "cancel.committed": "a task is cancelled or its cancellation is requested, the request is not answered",
    "redrive.committed": "failed tasks are enqueued again, the request is not answered and their dead letters exist",
    "redrive.dropped": "the dead letters of redriven tasks are dropped",
    "reconcile.claim_written": "a name is claimed, the transaction is open",
    "reconcile.row_written": "a row is written, the transaction is open",
    "reconcile.row_deleted": "a row is deleted or deactivated, the transaction is open",
    "reconcile.rows_committed": "rows and claim are committed, no topology is declared",
    "reconcile.topology_declared": "exchanges, queues and bindings are declared",
    "reconcile.topology_deleted": "exchanges, queues and bindings are deleted, the rows still exist",
    "operator.finalizer_added": "an object has the finalizer, nothing is applied yet",
    "operator.applied": "an object is applied, no status is written",
    "operator.status_written": "a status is written",
    "operator.released": "a deleted object is released, its finalizer still exists",
    "operator.finalizer_removed": "the finalizer of a deleted object is removed",
}
"""Every failpoint, named after what is true when it is reached."""

_PART: Final = re.compile(r"([a-z_.]+)=(kill9|raise|unavailable|hang|slow\(([0-9]+(?:\.[0-9]+)?)\))(?:@([1-9][0-9]*))?")
_log = structlog.get_logger(__name__)


class InjectedBug(RuntimeError):
    """The exception of `raise`; no code may catch it on purpose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failpoint:
    """The action at one step.

    Attributes:
        nth: the time at which it acts, counted from 1; None means every time.
    """

    name: str
    action: str
    seconds: float = 0.0
    nth: int | None = None


async def _pass(_: str) -> None:
    """Do nothing: no failpoint is armed."""


hit: Callable[[str], Awaitable[None]] = _pass
"""Call it as `await failpoints.hit("claim.committed")` after that step."""


def parse(text: str) -> list[Failpoint]:
    """Return the actions that DTQ_FAILPOINTS defines.

    Raises:
        ValueError: a part is malformed, or names no failpoint.
    """
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(
                f"{part!r} is not name=action or name=action@n; actions: kill9 raise unavailable hang slow(s)"
            )
        name, action, seconds, nth = match.groups()
        if name not in NAMES:
            raise ValueError(f"{name!r} is not a failpoint; known failpoints are {', '.join(NAMES)}")
        found.append(
            Failpoint(
                name=name,
                action=action.partition("(")[0],
                seconds=float(seconds or 0),
                nth=int(nth) if nth else None,
            )
        )
    return found


def arm(text: str) -> None:
    """Arm the failpoints that DTQ_FAILPOINTS defines; an empty text arms nothing.

    Raises:
        ValueError: see `parse`.
    """
    global hit  # noqa: PLW0603 - bound once at process start, so that it costs nothing when off
    points = parse(text)
    if points:
        _log.warning("failpoints armed", failpoints=text)
        hit = _Armed(points).hit


class _Armed:
    def __init__(self, points: list[Failpoint]) -> None:
        self._points = points
        self._hits: Counter[str] = Counter()

    async def hit(self, name: str) -> None:
        assert name in NAMES, name
        self._hits[name] += 1
        for point in self._points:
            if point.name == name and point.nth in (None, self._hits[name]):
                _log.warning("failpoint reached", failpoint=name, action=point.action, nth=self._hits[name])
                await _act(point)


async def _act(point: Failpoint) -> None:
    match point.action:
        case "kill9":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise InjectedBug(f"failpoint {point.name}")
        case "unavailable":
            raise Unavailable(f"failpoint {point.name}", in_doubt=True)
        case "hang":
            await asyncio.Event().wait()
        case "slow":
            await asyncio.sleep(point.seconds)

"""Bulk enqueue: many tasks in one request, each with its own result, or all of them or none.

The items are checked one after the other, and other requests are served meanwhile.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

from dtq.domain.errors import Problem, Rejected, Unavailable
from dtq.runtime.metrics import UNKNOWN, ApiMetrics
from dtq_api import bodies, problems, requests
from dtq_api.auth.policy import Rights, Verb
from dtq_api.caller_turns import CallerTurns
from dtq_api.enqueue import Enqueued, Enqueuing
from dtq_api.group_commit import GroupCommit
from dtq_db import tasks as store
from dtq_db.connections import DedicatedConnection
from dtq_db.tasks import NewTask

ITEMS_MAX: Final = 1_000
"""Most tasks of one request: one statement and one publish window of some ten milliseconds."""
PER_CALLER: Final = 2
"""Most bulk requests of one caller at a time: each holds its body in memory."""
CHECK_SECONDS: Final = 10.0
"""Longest time for the checks of one request's items, in seconds; the rest of the items is told to come back."""
TURN_SECONDS: Final = 0.005
"""How long items are checked before other requests are served, in seconds."""

Outcome = Enqueued | Rejected | Unavailable
_items = msgspec.json.Decoder(list[msgspec.Raw])


class BulkEnqueue:
    """Enqueues the items of bulk requests.

    Args:
        enqueuing: checks the items.
        group_commit: stores and publishes tasks that do not depend on each other.
        dedicated: stores the tasks of a request that wants all or none.
        added: called when tasks were stored that the relay is to publish.
    """

    def __init__(
        self,
        enqueuing: Enqueuing,
        group_commit: GroupCommit,
        dedicated: DedicatedConnection,
        *,
        metrics: ApiMetrics,
        added: Callable[[], None],
    ) -> None:
        self._metrics = metrics
        self._enqueuing = enqueuing
        self._group_commit = group_commit
        self._dedicated = dedicated
        self._added = added
        self.turns = CallerTurns(at_once=PER_CALLER, waiting_max=0, wait_seconds=0.0, refused=_too_many)
        """Of each caller's requests: PER_CALLER at a time, and none waits."""

    async def each(self, items: list[bytes], rights: Rights) -> list[Outcome]:
        """Enqueue every item that is allowed; return, in order, what became of each."""
        checked = await self._checked(items, rights)
        tasks = [task for task in checked if isinstance(task, NewTask)]
        answers = iter(await self._group_commit.store_many(tasks))
        outcomes = [
            self._outcome(task, next(answers), rights) if isinstance(task, NewTask) else task for task in checked
        ]
        self._count(checked, outcomes)
        return outcomes

    async def all_or_none(self, items: list[bytes], rights: Rights) -> list[Outcome]:
        """Enqueue all items in one transaction; the relay publishes them.

        Raises:
            Rejected: `BulkRefused`: an item is refused, and nothing was stored.
            Unavailable: nothing was stored unless the error says in doubt.
        """
        checked = await self._checked(items, rights)
        _refuse([(at, outcome) for at, outcome in enumerate(checked) if not isinstance(outcome, NewTask)])
        tasks = [task for task in checked if isinstance(task, NewTask)]
        outcomes: list[Outcome] = []
        async with self._dedicated.transaction() as connection:
            stored = await store.enqueue_on(connection, tasks)
            for task in tasks:
                hit = None if task.id in stored else await store.replay_on(connection, task)
                outcomes.append(
                    self._outcome(task, hit if hit or task.id in stored else problems.inactive(task.type), rights)
                )
            _refuse([(at, outcome) for at, outcome in enumerate(outcomes) if not isinstance(outcome, Enqueued)])
        self._added()
        self._count(checked, outcomes)
        return outcomes

    async def _checked(self, items: list[bytes], rights: Rights) -> list[NewTask | Rejected | Unavailable]:
        checked: list[NewTask | Rejected | Unavailable] = []
        now = datetime.now(UTC)
        began = turn_began = time.monotonic()
        for item in items:
            try:
                asked = requests.parse_enqueue(item, now)
                rights.require(Verb.ENQUEUE, asked.body.type)
                checked.append(await self._enqueuing.prepared(asked, rights))
            except (Rejected, Unavailable) as error:
                checked.append(error)
            if (at := time.monotonic()) - began > CHECK_SECONDS:
                late = Unavailable("the checks of this request's payloads took too long: send fewer items at a time")
                return checked + [late] * (len(items) - len(checked))
            if at - turn_began > TURN_SECONDS:
                await asyncio.sleep(0)
                turn_began = time.monotonic()
        return checked

    def _count(self, checked: Sequence[NewTask | Rejected | Unavailable], outcomes: Sequence[Outcome]) -> None:
        """Count the items as requests of `POST /enqueue` are counted."""
        labels = Counter(
            (item.type, item.queue, "ok" if isinstance(outcome, Enqueued) else "error")
            if isinstance(item, NewTask)
            else (UNKNOWN, UNKNOWN, "error")
            for item, outcome in zip(checked, outcomes, strict=True)
        )
        for values, number in labels.items():
            self._metrics.enqueues.labels(*values).inc(number)
        for item, outcome in zip(checked, outcomes, strict=True):
            if isinstance(item, NewTask) and isinstance(outcome, Enqueued) and outcome.replayed:
                self._metrics.replayed.labels(item.type).inc()

    def _outcome(self, task: NewTask, answer: store.ExistingTask | BaseException | None, rights: Rights) -> Outcome:
        if isinstance(answer, Rejected | Unavailable):
            return answer
        if isinstance(answer, BaseException):
            raise answer
        try:
            return self._enqueuing.answered(task, answer, rights)
        except Rejected as error:
            return error


def items_of(text: bytes, *, lines: bool) -> list[bytes]:
    """Return the items of a body: of a JSON array, or one per line (NDJSON).

    Raises:
        Rejected: `InvalidBody`: it is neither, or it has no or too many items.
    """
    if lines:
        items = [line for line in text.split(b"\n") if line.strip()]
    else:
        try:
            items = [bytes(item) for item in _items.decode(text)]
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise Rejected("InvalidBody", f"the body is not a JSON array of tasks: {str(error)[:200]}") from error
    if not 1 <= len(items) <= ITEMS_MAX:
        raise Rejected("InvalidBody", f"the body has {len(items)} items: send 1..{ITEMS_MAX}")
    return items


def results_of(outcomes: list[Outcome]) -> bodies.BulkEnqueued:
    """Return the answer to a request."""
    results = [_result(outcome) for outcome in outcomes]
    accepted = sum(isinstance(outcome, Enqueued) for outcome in outcomes)
    return bodies.BulkEnqueued(accepted=accepted, refused=len(outcomes) - accepted, results=results)


def _result(outcome: Outcome) -> bodies.BulkResult:
    if isinstance(outcome, Enqueued):
        return bodies.BulkResult(
            id=outcome.id, status=outcome.status, queue=outcome.queue, replayed=outcome.replayed or msgspec.UNSET
        )
    return bodies.BulkResult(problem=problems.details_of(outcome))


def _refuse(refused: list[tuple[int, Outcome | NewTask]]) -> None:
    """Raise `BulkRefused` if any item was refused, with the mistakes of each."""
    mistakes = list(_mistakes(refused))
    if mistakes:
        message = f"{len(refused)} items are refused, and nothing was stored: the first is item {refused[0][0]}"
        raise Rejected("BulkRefused", message, tuple(mistakes))


def _mistakes(refused: list[tuple[int, Outcome | NewTask]]) -> Iterator[Problem]:
    for at, outcome in refused:
        if isinstance(outcome, Unavailable):
            raise outcome
        assert isinstance(outcome, Rejected)
        if not outcome.problems:
            yield Problem(path=f"[{at}]", message=str(outcome))
        for mistake in outcome.problems:
            yield Problem(path=f"[{at}].{mistake.path}", message=mistake.message)


def _too_many(caller: str) -> Rejected:
    message = f"{PER_CALLER} bulk requests of {caller} are under way already: wait for their answers"
    return Rejected("TooManyRequests", message, retry_after_seconds=1)

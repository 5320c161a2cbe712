"""A history sorted by task, with the queries that the invariants share."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import zip_longest
from typing import Any, Final

import msgspec

from tests.faults.history import Call, EventRow, History, Run, TaskRow, TypePolicy, WorkerRow

TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})
STATUS_AFTER: Final = {"RETRY": "ENQUEUED", "RELEASED": "ENQUEUED", "REDRIVE": "ENQUEUED"}
"""What status an event leads to, where it is not its own name. `DLQ` changes none."""
REAPED: Final = "worker lost"
"""How the note of an attempt begins that was taken back from an expired lease."""
SUSPECTED: Final = "worker lost: this task runs again alone"
"""How the note of such an attempt begins when it was given back, since another task may have taken the worker down."""
DRAINED: Final = "the worker was stopped"
"""How the note of an attempt begins that a shutdown cut short."""
TIMED_OUT: Final = "took longer than"
CRON: Final = "\x1fschedule:"
"""How the idempotency key of a cron entry's task begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The bounds of too late and too much.

    Attributes:
        terminal_seconds: from the end of the faults, or from when a task was due, to its end (T_max).
        waiting_seconds: longest wait of a due task for a claim, once all faults are over.
        reap_seconds: from the end of a lease to taking its tasks back: two rounds of the reaper, and a statement.
        skew_seconds: how far the clocks of client, handlers and database may be apart.
        early_seconds: how far before its due time a task may be claimed.
        bugs_injected: unforeseen exceptions were raised on purpose: the right answer is a 500.
    """

    terminal_seconds: float = 150.0
    waiting_seconds: float = 60.0
    reap_seconds: float = 12.0
    answer_seconds: float = 25.0
    ready_seconds: float = 60.0
    recovered_seconds: float = 120.0
    recovered_share: float = 0.9
    drain_seconds: float = 45.0
    skew_seconds: float = 1.0
    early_seconds: float = 1.05
    rss_bytes_max: int = 512 * 1024 * 1024
    fds_max: int = 400
    connections_max: int = 100
    bugs_injected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A task that waits for a claim.

    Attributes:
        due: from when on it may be claimed; None where that is unknown.
        claimed: the event that ended it; None if nothing did.
    """

    task_id: str
    since: EventRow
    due: float | None
    claimed: EventRow | None


Rule = Callable[["Index"], Iterator[str | None]]
"""Decides one invariant: yields None for each instance that holds, and what is wrong for each that does not."""


@dataclass(frozen=True)
class Index:
    """A history, sorted."""

    history: History
    limits: Limits = field(default_factory=Limits)

    @cached_property
    def rows(self) -> dict[str, TaskRow]:
        """Rows by task."""
        return {row.id: row for row in self.history.tasks}

    @cached_property
    def events(self) -> dict[str, list[EventRow]]:
        """Events by task, in their order: ids are assigned under the row's lock, `at` is the start of a transaction."""
        found: dict[str, list[EventRow]] = defaultdict(list)
        for event in sorted(self.history.events, key=lambda event: event.id):
            found[event.task_id].append(event)
        return found

    @cached_property
    def runs(self) -> dict[str, list[Run]]:
        """Handler runs by task."""
        found: dict[str, list[Run]] = defaultdict(list)
        for run in self.history.handler:
            found[run.task_id].append(run)
        return found

    @cached_property
    def workers(self) -> dict[str, WorkerRow]:
        """Leases by id."""
        return {worker.id: worker for worker in self.history.workers}

    @cached_property
    def policies(self) -> dict[str, TypePolicy]:
        """Task types by name."""
        return {policy.type: policy for policy in self.history.types}

    @cached_property
    def calls(self) -> dict[str, list[Call]]:
        """Calls by what they ask for."""
        found: dict[str, list[Call]] = defaultdict(list)
        for call in self.history.client:
            found[signature(call.type, call.payload, call.key)].append(call)
        return found

    @cached_property
    def acknowledged(self) -> dict[str, Call]:
        """The first 2xx by task."""
        found: dict[str, Call] = {}
        for call in self.history.client:
            if accepted(call) and call.task_id is not None:
                found.setdefault(call.task_id, call)
        return found

    @cached_property
    def healed_at(self) -> float:
        """When the last fault was over."""
        began = self.history.span[0].started_at if self.history.span else 0.0
        return max([began, *(fault.until for fault in self.history.faults)])

    @cached_property
    def ended_at(self) -> float:
        """When the rows were taken down."""
        if self.history.span:
            return self.history.span[-1].ended_at
        return max([0.0, *(epoch(event.at) for event in self.history.events)])

    @cached_property
    def is_undisturbed(self) -> bool:
        """Whether there was no fault and no bad end of a process, so that no count can be missing."""
        return not self.history.faults and all(exit_.code == 0 for exit_ in self.history.exits)

    def asked(self, row: TaskRow) -> list[Call]:
        """Return the calls that a row may have come from."""
        return self.calls.get(signature(row.type, row.payload, row.idempotency_key), [])

    def moves(self, task_id: str) -> list[EventRow]:
        """Return the events of a task that changed its status."""
        return [event for event in self.events.get(task_id, []) if event.event != "DLQ"]

    def steps(self, task_id: str) -> Iterator[tuple[EventRow, EventRow | None]]:
        """Yield each move of a task with the one that followed it, if any."""
        moves = self.moves(task_id)
        yield from zip_longest(moves, moves[1:])

    def waits(self) -> Iterator[Wait]:
        """Yield each time that a task waited for a claim."""
        for task_id in self.rows:
            for event, following in self.steps(task_id):
                if status_after(event) == "ENQUEUED":
                    yield Wait(task_id=task_id, since=event, due=self._due(task_id, event), claimed=following)

    def _due(self, task_id: str, event: EventRow) -> float | None:
        at = epoch(event.at)
        if event.event == "RETRY" and not (is_noted(event, DRAINED) or is_noted(event, SUSPECTED)):
            policy = self.policies.get(self.rows[task_id].type)
            if policy is None or event.attempt is None or not policy.delays_seconds:
                return None
            return at + policy.delays_seconds[min(event.attempt, len(policy.delays_seconds)) - 1]
        if event.event == "ENQUEUED":
            asked = [epoch(call.run_at) for call in self.asked(self.rows[task_id]) if call.run_at is not None]
            return max([at, *asked])
        return at


def signature(type_: str, payload: dict[str, Any], key: str | None) -> str:
    """Return what tells one question from all others, however its JSON was written."""
    return msgspec.json.encode([type_, payload, key], order="sorted").decode()


def epoch(at: datetime) -> float:
    """Return a time of the database as seconds of the wall clock."""
    return at.timestamp()


def status_after(event: EventRow) -> str:
    """Return the status that an event led to."""
    return STATUS_AFTER.get(event.event, event.event)


def is_noted(event: EventRow, beginning: str) -> bool:
    """Return whether an event's note begins so. That of a release is what was noted before it."""
    return event.event != "RELEASED" and (event.note or "").startswith(beginning)


def accepted(call: Call) -> bool:
    """Return whether a call was answered 2xx."""
    return call.status is not None and 200 <= call.status < 300


def refused(call: Call) -> bool:
    """Return whether a call was answered so that nothing may have been left behind."""
    return call.status is not None and (400 <= call.status < 500 or (call.status == 503 and not call.doubt))

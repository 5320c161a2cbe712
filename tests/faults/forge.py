"""Forged histories: one that satisfies every invariant, and functions that break one invariant in it."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from tests.faults.history import (
    Call,
    DeadLetter,
    Declared,
    EventRow,
    Exit,
    History,
    Injected,
    Metric,
    Run,
    Sample,
    Span,
    TaskRow,
    TypePolicy,
    WorkerRow,
)

BEGAN: Final = 1_800_000_000.0
OK: Final = "fault.ok.v1"
FAIL: Final = "fault.fail.v1"
T = TypeVar("T")


def when(seconds: float) -> datetime:
    """Return a time of the database, in seconds after the run began."""
    return datetime.fromtimestamp(BEGAN + seconds, UTC)


def call(n: int, at: float, task_id: str | None = None, **fields: Any) -> Call:
    """Return a call that was answered 201 if it names a task, and not at all otherwise."""
    given = {"type": OK, "payload": {"op": n}, "status": 201 if task_id else None} | fields
    return Call(n=n, started_at=BEGAN + at, ended_at=BEGAN + at + 0.1, task_id=task_id, **given)


def row(task_id: str, op: int, status: str = "SUCCEEDED", attempts: int = 1, **fields: Any) -> TaskRow:
    """Return a row that call `op` made."""
    given: dict[str, Any] = {
        "type": OK,
        "payload": {"op": op},
        "result": {"attempt": attempts} if status == "SUCCEEDED" else None,
        "max_attempts": 5,
        "created_at": when(0),
        "updated_at": when(0),
        "run_at": when(0),
    }
    return TaskRow(id=task_id, queue="default", status=status, attempts=attempts, **(given | fields))


def life(
    first: int, task_id: str, *moves: tuple[str, float, int], worker: str = "w1", note: str = ""
) -> list[EventRow]:
    """Return events (name, seconds, attempt), numbered from `first`; a retry, release or failure has the note."""
    return [
        EventRow(
            id=first + at,
            task_id=task_id,
            event=event,
            at=when(seconds),
            attempt=attempt,
            worker_id=None if event == "ENQUEUED" else worker,
            note=note if event in ("RETRY", "RELEASED", "FAILED", "DLQ") and note else None,
        )
        for at, (event, seconds, attempt) in enumerate(moves)
    ]


def ran(task_id: str, attempt: int, at: float, *, pid: int = 11, outcome: str | None = "succeeded") -> list[Run]:
    """Return a handler's start and, unless it has no outcome, its end."""
    start = Run(task_id=task_id, attempt=attempt, pid=pid, phase="start", at=BEGAN + at)
    end = Run(task_id=task_id, attempt=attempt, pid=pid, phase="end", at=BEGAN + at + 0.1, outcome=outcome)
    return [start, end] if outcome else [start]


def right() -> History:
    """Return a history that is right, and says something about every invariant.

    Tasks: `a` succeeds; `b` succeeds after a retry; `c` fails and has its dead letter; `d` was posted twice with one
    key; `e` was stored although its answer was lost. The operator is down meanwhile; a worker drains.
    """
    return History(
        client=[
            call(1, 1, "a", payload={"op": 1, "canary": "zq81"}),
            call(2, 2, "b"),
            call(3, 3, "c", type=FAIL),
            call(4, 4, "d", key="k4"),
            call(4, 5, "d", key="k4", replayed=True),
            call(5, 12, error="ReadTimeout"),
            call(6, 6, status=503, retry_after="2"),
            call(7, 7, status=400, error="unknown type"),
            call(8, 13, "f", run_at=when(16)),
        ],
        handler=[
            *ran("a", 1, 1.2),
            *ran("b", 1, 2.2, outcome=None),
            *ran("b", 2, 3.5),
            *ran("c", 1, 3.2, outcome=None),
            *ran("d", 1, 4.2),
            *ran("e", 1, 12.2),
            *ran("f", 1, 16.2),
        ],
        tasks=[
            row("a", 1, payload={"op": 1, "canary": "zq81"}),
            row("b", 2, attempts=2),
            row("c", 3, "FAILED", type=FAIL, max_attempts=1, last_error="as asked"),
            row("d", 4, idempotency_key="k4", replays=1),
            row("e", 5),
            row("f", 8),
        ],
        events=[
            *life(10, "a", ("ENQUEUED", 1, 0), ("RUNNING", 1.1, 1), ("SUCCEEDED", 1.4, 1)),
            *life(20, "b", ("ENQUEUED", 2, 0), ("RUNNING", 2.1, 1), ("RETRY", 2.3, 1), ("RUNNING", 3.4, 2), note="x"),
            *life(24, "b", ("SUCCEEDED", 3.7, 2)),
            *life(30, "c", ("ENQUEUED", 3, 0), ("RUNNING", 3.1, 1), ("FAILED", 3.3, 1), ("DLQ", 3.4, 1), note="x"),
            *life(40, "d", ("ENQUEUED", 4, 0), ("RUNNING", 4.1, 1), ("SUCCEEDED", 4.4, 1)),
            *life(50, "e", ("ENQUEUED", 12, 0), ("RUNNING", 12.1, 1), ("SUCCEEDED", 12.4, 1)),
            *life(60, "f", ("ENQUEUED", 13, 0), ("RUNNING", 16.1, 1), ("SUCCEEDED", 16.4, 1)),
        ],
        workers=[
            WorkerRow(id="w1", name="host:11", started_at=when(0), lease_expires_at=when(30)),
            WorkerRow(id="w2", name="host:12", started_at=when(0), lease_expires_at=when(200)),
        ],
        dlq=[DeadLetter(id="c")],
        metrics=[
            Metric(process="api-0", pid=9, name="dq_relay_lost_total", value=0),
            Metric(process="worker-0", pid=11, name="dq_retries_total", value=1, labels={"type": OK}),
        ],
        faults=[Injected(at=BEGAN + 10, until=BEGAN + 18, name="operator-down")],
        exits=[Exit(at=BEGAN + 30, process="worker-0", pid=11, told="term", code=0, seconds=1.5)],
        samples=[
            *(Sample(at=BEGAN + at, process="system", finished_total=2 * at) for at in range(40)),
            *(
                Sample(
                    at=BEGAN + at, process="api-0", rss_bytes=10**8, fds=20, connections=9, ready=at > 20, alive=True
                )
                for at in range(40)
            ),
        ],
        types=[
            TypePolicy(type=OK, max_attempts=5, delays_seconds=[1.0, 2.0]),
            TypePolicy(type=FAIL, max_attempts=1, delays_seconds=[1.0]),
        ],
        declared=[
            Declared(kind="queue", name="tasks.default", wanted=True, found=True),
            Declared(kind="task_type", name="gone.v1", wanted=False, found=False),
        ],
        span=[Span(started_at=BEGAN, ended_at=BEGAN + 100)],
        logs={"api-0.log": "api started"},
    )


def but(records: list[T], place: int, /, **changes: Any) -> list[T]:
    """Return the records with one of them changed."""
    changed: list[Any] = list(records)
    changed[place] = replace(changed[place], **changes)
    return changed


def with_task(
    task: TaskRow, events: list[EventRow], runs: list[Run] | None = None, calls: list[Call] | None = None
) -> History:
    """Return the right history with one more task, asked for by call 99."""
    history = right()
    asked = [call(99, 20, task.id, type=task.type, payload=task.payload, key=task.idempotency_key)]
    return replace(
        history,
        client=[*history.client, *(asked if calls is None else calls)],
        tasks=[*history.tasks, task],
        events=[*history.events, *events],
        handler=[*history.handler, *(runs or [])],
    )

"""The history of a run: the records that it leaves behind, one file of JSON lines for each kind.

The fault runs write it, the checker reads it. Times of the client, the handlers, the faults and the samples are
`time.time()` of one machine, in seconds; times of rows are those of Postgres.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

import msgspec

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One `POST /enqueue` and its answer, written when the wait for the answer is over.

    The payload is unique to the question: with type and key it leads a row back to its request. Who asks again by
    key repeats the payload.

    Attributes:
        n: its number, from 1.
        api: where it was sent.
        payload: if it holds `canary`, that text may be seen nowhere but in `tasks.payload`.
        run_at: as it was sent.
        status: of the answer; None when there was none: the outcome is in doubt.
        error: of the answer's problem document, or what broke the connection.
        doubt: the answer itself says that something may have been left behind.
    """

    n: int
    started_at: float
    ended_at: float
    type: str
    payload: dict[str, Any]
    api: str = ""
    key: str | None = None
    queue: str | None = None
    max_attempts: int | None = None
    run_at: datetime | None = None
    status: int | None = None
    task_id: str | None = None
    replayed: bool = False
    retry_after: str | None = None
    error: str | None = None
    doubt: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A handler has begun or ended; the handler writes and fsyncs the line itself (`tests.support.handlers.note`).

    Attributes:
        outcome: how it ended, `succeeded` or `failed`; None at the start.
    """

    task_id: str
    attempt: int
    pid: int
    phase: Literal["start", "end"]
    at: float
    outcome: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A row of `tasks` after the run, as `to_jsonb` shows it; columns that no invariant needs are left out."""

    id: str
    type: str
    queue: str
    status: str
    attempts: int
    max_attempts: int
    payload: dict[str, Any]
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    result: Any = None
    last_error: str | None = None
    idempotency_key: str | None = None
    needs_publish: bool | None = None
    worker_id: str | None = None
    crashes: int = 0
    replays: int = 0
    redrives: int = 0
    dead_lettered_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """A row of `task_events`."""

    id: int
    task_id: str
    event: str
    at: datetime
    note: str | None = None
    attempt: int | None = None
    worker_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRow:
    """A row of `workers`: one lease. `name` ends with `:` and the process's id."""

    id: str
    name: str
    started_at: datetime
    lease_expires_at: datetime
    reaped_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message that the dead letter queue holds after the run."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A sample of a counter or gauge, scraped at the end of a process's life or of the run.

    Attributes:
        pid: tells one boot of a process from the next.
    """

    process: str
    pid: int
    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Injected:
    """A fault that was injected.

    Attributes:
        until: when it was over, as far as the injector knows; `at` for what is over at once.
        name: `tests.faults.schedule.Kind`, or `failpoint`.
        target: processes, a link, a failpoint, or nothing where the name says it all.
    """

    at: float
    until: float
    name: str
    target: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """A process that ended during the run.

    Attributes:
        told: `term`, `kill`, or `` after a crash.
        seconds: from the signal to the end.
        code: as `Popen.returncode`: negative for a signal.
    """

    at: float
    process: str
    pid: int
    told: Literal["term", "kill", ""]
    code: int
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """An observation from outside; an unavailable number is None.

    Attributes:
        process: its name, or `system` for what no single process can tell.
        connections: to Postgres and RabbitMQ.
        finished_total: tasks that came to their end so far.
        ready: what `/readyz` says.
        alive: what `/healthz` of a worker or `/livez` of an API says.
    """

    at: float
    process: str
    rss_bytes: int | None = None
    fds: int | None = None
    connections: int | None = None
    finished_total: int | None = None
    ready: bool | None = None
    alive: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePolicy:
    """The declaration of a task type; without jitter, so that a wrong delay can be recognised."""

    type: str
    max_attempts: int
    delays_seconds: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """Something that was declared, and whether it is there after the run.

    Attributes:
        kind: `queue`, `binding`, `task_type`, …
        wanted: whether it should be there.
        emptied: it was deleted with messages or tasks in it.
    """

    kind: str
    name: str
    wanted: bool
    found: bool
    emptied: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When the run began and when its rows were taken down."""

    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All records of one run."""

    client: list[Call] = field(default_factory=list)
    handler: list[Run] = field(default_factory=list)
    tasks: list[TaskRow] = field(default_factory=list)
    events: list[EventRow] = field(default_factory=list)
    workers: list[WorkerRow] = field(default_factory=list)
    dlq: list[DeadLetter] = field(default_factory=list)
    metrics: list[Metric] = field(default_factory=list)
    faults: list[Injected] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    types: list[TypePolicy] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)
    span: list[Span] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    """What the processes logged, by file name: every `*.log` of the folder."""


RECORDS: Final[dict[str, type]] = {
    "client": Call,
    "handler": Run,
    "tasks": TaskRow,
    "events": EventRow,
    "workers": WorkerRow,
    "dlq": DeadLetter,
    "metrics": Metric,
    "faults": Injected,
    "exits": Exit,
    "samples": Sample,
    "types": TypePolicy,
    "declared": Declared,
    "span": Span,
}
"""What `NAME.jsonl` of a history's folder holds; a file that is missing is empty. Unknown keys are passed over."""


class Lines(Generic[T]):
    """One file, opened to append; each record is on the disk before `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o644)

    def __enter__(self) -> Self:
        """Write."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        os.close(self._descriptor)

    def write(self, record: T) -> None:
        """Append one record."""
        os.write(self._descriptor, msgspec.json.encode(record) + b"\n")
        os.fdatasync(self._descriptor)


def write(folder: Path, name: str, records: Iterable[Any]) -> None:
    """Write all records of one kind at once; rows may be JSON text as Postgres gave it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (record.encode() if isinstance(record, str) else msgspec.json.encode(record) for record in records)
    (folder / f"{name}.jsonl").write_bytes(b"".join(line + b"\n" for line in lines))


def save(history: History, folder: Path) -> None:
    """Write a history."""
    for name in RECORDS:
        write(folder, name, getattr(history, name))
    for name, text in history.logs.items():
        (folder / name).write_text(text)


def load(folder: Path) -> History:
    """Read a history.

    Raises:
        ValueError: a line is not a record of its kind; the message names file and line.
    """
    assert {field.name for field in fields(History)} == {*RECORDS, "logs"}
    read: dict[str, Any] = {name: list(_read(folder / f"{name}.jsonl", record)) for name, record in RECORDS.items()}
    logs = {path.name: path.read_text(errors="replace") for path in sorted(folder.glob("*.log"))}
    return History(**read, logs=logs)


def _read(path: Path, record: type[T]) -> Iterator[T]:
    decoder = msgspec.json.Decoder(record)
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    # What follows the last line's end was cut off when its writer was killed: it never happened.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise ValueError(f"{path}:{number}: {error}: {line[:200]!r}") from error

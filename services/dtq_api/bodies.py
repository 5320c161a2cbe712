"""The bodies of requests and answers; the OpenAPI document is generated from these types."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dtq.domain import limits
from dtq.domain.names import TYPE_PATTERN
from dtq.domain.states import Event, TaskStatus
from dtq_api.problems import ProblemDetails

PAGE_DEFAULT: Final = 50
REDRIVE_IDS_MAX: Final = 1_000
"""Most ids in one redrive, a page of a person's work; a filter may take more tasks."""
REDRIVE_DEFAULT: Final = 100
"""Default limit of a redrive by filter, in tasks."""


def _shown(description: str, **schema: Any) -> Meta:
    """Return what the OpenAPI document says about a field; `requests` does the check and names every mistake."""
    return Meta(description=description, extra_json_schema=schema)


_TYPE_SCHEMA: Final = {"pattern": TYPE_PATTERN, "maxLength": limits.TYPE_CHARS_MAX}
_TEXT_SCHEMA: Final = {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
"""Text without control characters."""
PageLimit = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": limits.PAGE_MAX, "default": PAGE_DEFAULT})]
TypeName = Annotated[str, Meta(extra_json_schema=_TYPE_SCHEMA)]
Text = Annotated[str, Meta(extra_json_schema=_TEXT_SCHEMA)]
Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0)]
Status = Annotated[str, Meta(extra_json_schema={"enum": [str(status) for status in TaskStatus]})]


class EnqueueBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A task to accept."""

    type: Annotated[str, _shown("The name of a TaskType.", **_TYPE_SCHEMA)]
    payload: Annotated[
        Raw, _shown("Any JSON but null; must satisfy the type's payloadSchema.", **{"not": {"type": "null"}})
    ]
    queue: Annotated[str | None, _shown("One of the queue set's queues; else the type's own.")] = None
    max_attempts: Annotated[
        int | None,
        _shown("How often the task is tried; else as its type says.", minimum=1, maximum=limits.ATTEMPTS_MAX),
    ] = None
    idempotency_key: Annotated[
        str | None,
        _shown(
            "Of the type: the same key and payload again are answered with the first task.",
            minLength=1,
            maxLength=limits.IDEMPOTENCY_KEY_CHARS_MAX,
            **_TEXT_SCHEMA,
        ),
    ] = None
    run_at: Annotated[str | None, _shown("Not before, with a zone; at most a year ahead.", format="date-time")] = None


class RedriveBody(Struct, frozen=True, forbid_unknown_fields=True):
    """The failed tasks to send again: ids, or a filter, or all."""

    ids: Annotated[list[UUID] | None, _shown("By id.", minItems=1, maxItems=REDRIVE_IDS_MAX)] = None
    type: Annotated[str | None, _shown("Only tasks of that type.", **_TYPE_SCHEMA)] = None
    queue: Annotated[str | None, _shown("Only tasks of that queue.", **_TEXT_SCHEMA)] = None
    failed_before: Annotated[str | None, _shown("Only tasks that failed earlier.", format="date-time")] = None
    limit: Annotated[
        int | None,
        _shown(
            f"Most tasks to send again, oldest failure first; else {REDRIVE_DEFAULT}.",
            minimum=1,
            maximum=limits.REDRIVE_MAX,
        ),
    ] = None
    all: Annotated[bool, _shown("Every failed task, oldest failure first.")] = False
    dry_run: Annotated[bool, _shown("Only tell what would be sent again.")] = False


class Service(Struct):
    """What this service is, and its main routes."""

    service: str
    enqueue: str
    task: str
    openapi: str
    health: str
    metrics: str | UnsetType = UNSET


class Enqueued(Struct):
    """The task, stored and published; or the one that holds the idempotency key."""

    id: UUID
    status: Status
    queue: str


class BulkResult(Struct, kw_only=True, omit_defaults=True):
    """What became of one item: its task, or the problem that `POST /enqueue` would answer."""

    id: UUID | UnsetType = UNSET
    status: Status | UnsetType = UNSET
    queue: str | UnsetType = UNSET
    replayed: Annotated[bool | UnsetType, _shown("There, and true, when the task is an earlier one.")] = UNSET
    problem: ProblemDetails | UnsetType = UNSET


class BulkEnqueued(Struct):
    """What became of each item, in the order of the request."""

    accepted: Count
    refused: Count
    results: list[BulkResult]


class TaskRow(Struct, kw_only=True):
    """One task of a page."""

    id: UUID
    type: str
    queue: str
    status: Status
    attempts: Count
    max_attempts: Count
    last_error: str | None
    created_at: Time
    updated_at: Time


class Task(TaskRow, kw_only=True):
    """One task with all its details."""

    queue_set: str
    run_at: Time
    crashes: Annotated[Count, Meta(description="Workers that this task took down while it ran alone.")]
    redrives: Annotated[Count, Meta(description="How often a person sent it again.")]
    snoozes: Annotated[Count, Meta(description="How often its handler put it off since, at no cost of attempts.")]
    cancel_requested_at: Time | None
    dead_lettered_at: Time | None
    result: Annotated[
        Raw | UnsetType,
        Meta(description="What the handler returned; null until it did; needs the right read-payload."),
    ] = UNSET
    last_traceback: Annotated[
        str | UnsetType | None,
        Meta(description="Where the handler raised last_error; needs the right read-payload."),
    ] = UNSET


class Payload(Struct):
    """The payload of a task."""

    payload: Annotated[Raw, Meta(description="Any JSON but null.")]


class Page(Struct):
    """One page of tasks, newest first."""

    tasks: Annotated[list[TaskRow], Meta(max_length=limits.PAGE_MAX)]
    next_cursor: Annotated[UUID | None, Meta(description="The cursor of the next page, even after a short one.")]


class TaskEvent(Struct):
    """One event of a task's history."""

    event: Annotated[str, Meta(extra_json_schema={"enum": [str(event) for event in Event]})]
    note: Annotated[str | None, Meta(description="Why; of a RETRY, FAILED or DLQ its last_error.")]
    at: Time
    attempt: Count | None
    worker_id: UUID | None


class Events(Struct):
    """The history of a task."""

    events: list[TaskEvent]


class Cancelled(Struct):
    """A task that was cancelled, or whose worker is asked to stop it."""

    id: UUID
    status: Status


class Redriven(Struct, kw_only=True):
    """The tasks that were sent again, or would be."""

    dry_run: bool
    matched: Count
    redriven: Count
    ids: list[UUID]


class ScalingHint(Struct, kw_only=True):
    """How many workers a queue wants."""

    queue_set: str
    queue: str
    backlog: Annotated[Count, Meta(description="Ready and running tasks.")]
    ready: Annotated[Count, Meta(description="Tasks that are due and that no worker has claimed; 10,000 at most.")]
    running: Count
    desiredReplicas: Count  # noqa: N815 - the name that KEDA asks for
    asOf: Time  # noqa: N815


class Healthy(Struct, forbid_unknown_fields=True):
    """All is well."""

    status: Literal["ok"]


class Degraded(Struct, forbid_unknown_fields=True):
    """What is wrong, by part."""

    status: Literal["degraded"]
    db: Annotated[str | UnsetType, Meta(description="What is wrong with Postgres.")] = UNSET
    rmq: Annotated[str | UnsetType, Meta(description="… RabbitMQ.")] = UNSET

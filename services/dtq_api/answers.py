"""The bodies of answers; the OpenAPI document is generated from these types."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from dtq.domain import limits
from dtq.domain.states import Event, TaskStatus

Time = Annotated[datetime, Meta(tz=True)]
Count = Annotated[int, Meta(ge=0)]
Status = Annotated[str, Meta(extra_json_schema={"enum": [str(status) for status in TaskStatus]})]


class Service(Struct):
    """What this service is, and its main routes."""

    service: str
    enqueue: str
    task: str
    openapi: str
    health: str
    metrics: str


class Enqueued(Struct):
    """The task, stored and published; or the one that holds the idempotency key."""

    id: UUID
    status: Status
    queue: str


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

"""The rows that a TaskType or QueueSet should have in Postgres, in a form that can be compared.

The mapping from spec to columns loses no field: a round trip through the rows returns the same spec.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from dtq.domain.manifests import QueueSet, TaskType


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """One row of `schedule`."""

    name: str
    cron: str
    timezone: str
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskTypeRow:
    """One row of `task_type` with its schedules."""

    type: str
    active: bool
    default_queue: str
    default_max_attempts: int
    payload_schema: dict[str, Any] | None
    queue_set: str
    timeout_seconds: int
    backoff: dict[str, Any] | None
    max_payload_bytes: int
    retention_succeeded_seconds: int
    retention_failed_seconds: int
    deletion_policy: str
    concurrency: dict[str, Any] | None = None
    rate_limit: dict[str, Any] | None = None
    schedules: tuple[ScheduleRow, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueRow:
    """One row of `queue`; its position is its place in the set."""

    name: str
    type: str
    max_length: int | None
    scaling: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSetRow:
    """One row of `queue_set` with its queues, most urgent first."""

    name: str
    namespace: str
    retry_delays_seconds: tuple[int, ...]
    dead_letter: bool
    paused: bool
    deletion_policy: str
    removal_queue: str | None
    queues: tuple[QueueRow, ...]


def task_type_row(manifest: TaskType) -> TaskTypeRow:
    """Return the row for a TaskType."""
    spec = manifest.spec
    return TaskTypeRow(
        type=manifest.metadata.name,
        active=spec.active,
        default_queue=spec.queue,
        default_max_attempts=spec.max_attempts,
        payload_schema=spec.payload_schema,
        queue_set=spec.queue_set_ref.name,
        timeout_seconds=spec.timeout_seconds,
        backoff=_declared(spec.backoff),
        concurrency=_declared(spec.concurrency),
        rate_limit=_declared(spec.rate_limit),
        max_payload_bytes=spec.max_payload_bytes,
        retention_succeeded_seconds=spec.retention.succeeded_seconds,
        retention_failed_seconds=spec.retention.failed_seconds,
        deletion_policy=str(spec.deletion_policy),
        schedules=tuple(
            ScheduleRow(**dict(schedule)) for schedule in sorted(spec.schedule, key=lambda schedule: schedule.name)
        ),
    )


def queue_set_row(manifest: QueueSet) -> QueueSetRow:
    """Return the row for a QueueSet."""
    spec = manifest.spec
    return QueueSetRow(
        name=manifest.metadata.name,
        namespace=spec.namespace,
        retry_delays_seconds=tuple(sorted(spec.retry.delays_seconds)),
        dead_letter=spec.dead_letter.enabled,
        paused=spec.paused,
        deletion_policy=str(spec.deletion_policy),
        removal_queue=spec.on_removal.queue,
        queues=tuple(
            QueueRow(
                name=queue.name,
                type=str(queue.type),
                max_length=queue.max_length,
                scaling=queue.scaling.model_dump(mode="json", by_alias=True, exclude_none=True),
            )
            for queue in spec.queues
        ),
    )


def _declared(part: BaseModel | None) -> dict[str, Any] | None:
    return None if part is None else part.model_dump(mode="json", by_alias=True, exclude_none=True)

"""The statuses of a task and the transitions between them.

The SQL functions make these transitions and a CHECK allows only these statuses; a test compares the three.
"""

from enum import StrEnum
from typing import Final


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    ENQUEUED = "ENQUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    DLQ = "DLQ"  # a status in the origin; dtq writes it as an event only


class Outcome(StrEnum):
    """How one attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    LOST = "lost"
    REJECTED = "rejected"
    DRAINED = "drained"
    SNOOZED = "snoozed"


class Event(StrEnum):
    """What `task_events` records."""

    ENQUEUED = "ENQUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    RETRY = "RETRY"
    RELEASED = "RELEASED"
    REDRIVE = "REDRIVE"
    DLQ = "DLQ"


TERMINAL: Final = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED, TaskStatus.DLQ})

TRANSITIONS: Final[dict[TaskStatus, frozenset[TaskStatus]]] = {
    TaskStatus.ENQUEUED: frozenset({TaskStatus.RUNNING, TaskStatus.CANCELLED}),
    TaskStatus.RUNNING: frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.ENQUEUED, TaskStatus.CANCELLED}),
    TaskStatus.SUCCEEDED: frozenset(),
    TaskStatus.FAILED: frozenset({TaskStatus.ENQUEUED}),  # a person redrives it
    TaskStatus.CANCELLED: frozenset(),
    TaskStatus.DLQ: frozenset(),
}

"""The names that people choose, and what each of them may look like."""

from typing import Annotated

from pydantic import AfterValidator, StringConstraints

from dtq.domain import limits

QUEUE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$"
TYPE_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$"
NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
KEY_PATH_PATTERN = r"^[A-Za-z_][A-Za-z0-9_-]*(\.[A-Za-z_][A-Za-z0-9_-]*)*$"
RESERVED_QUEUES = frozenset({"retry", "dlq", "dlx", "direct"})

QueueName = Annotated[str, StringConstraints(pattern=QUEUE_PATTERN, max_length=32)]


def _work_queue(name: str) -> str:
    if name in RESERVED_QUEUES:
        raise ValueError(f"queue name {name!r} is reserved: choose another")
    return name


def _prefix(name: str) -> str:
    if name == "amq":
        raise ValueError("namespace 'amq' is reserved by RabbitMQ: choose another")
    return name


WorkQueueName = Annotated[QueueName, AfterValidator(_work_queue)]
"""A queue that workers consume, in a manifest and in QUEUES."""
Prefix = Annotated[QueueName, AfterValidator(_prefix)]
"""What every name of a queue set in the broker begins with, in a manifest and in RMQ_NAMESPACE."""
TypeName = Annotated[str, StringConstraints(pattern=TYPE_PATTERN, max_length=limits.TYPE_CHARS_MAX)]
ObjectName = Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=63)]
KeyPath = Annotated[str, StringConstraints(pattern=KEY_PATH_PATTERN, max_length=limits.KEY_PATH_CHARS_MAX)]

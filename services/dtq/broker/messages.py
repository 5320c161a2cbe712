"""Builds the three kinds of message about a task, each with its address: wake-up, retry and dead letter.

`dtq.domain.topology` builds the names.
"""

from uuid import UUID

from dtq.broker.publish_window import Message
from dtq.domain import topology
from dtq.domain.envelope import Envelope, encode


def work(namespace: str, queue: str, task_id: UUID, type_: str, *, handed_on: int = 0) -> Message:
    """Return the message that announces a task to the workers of its queue."""
    return Message(
        exchange=topology.main_exchange(namespace),
        routing_key=queue,
        body=encode(Envelope(id=task_id, type=type_, handed_on=handed_on)),
    )


def retry(namespace: str, queue: str, task_id: UUID, type_: str, *, retry_delay: int, delay_seconds: float) -> Message:
    """Return a message for the retry queue of its delay; jitter shortens the message's TTL, never lengthens it."""
    return Message(
        exchange="",
        routing_key=topology.retry_queue(namespace, queue, retry_delay),
        body=encode(Envelope(id=task_id, type=type_)),
        ttl_ms=None if delay_seconds >= retry_delay else max(1, round(delay_seconds * 1000)),
    )


def dead_letter(namespace: str, queue: str, task_id: UUID, type_: str) -> Message:
    """Return the copy of a failed task for the dead letter queue."""
    return Message(
        exchange=topology.dead_letter_exchange(namespace),
        routing_key=queue,
        body=encode(Envelope(id=task_id, type=type_)),
    )

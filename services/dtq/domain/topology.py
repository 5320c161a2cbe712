"""The broker topology of a queue set, as data: names, kinds and arguments.

No other module builds the name of a queue or an exchange. RabbitMQ cannot change the arguments of a queue, so a value
that may change is never an argument here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dtq.domain.manifests import QueueSetSpec, QueueSpec, QueueType

DELIVERY_LIMIT: Final = 1_000
"""Deliveries of one message before the broker drops it; the relay then publishes it again. RabbitMQ 4's default of 20
would count every worker restart against messages that were only in the worker's prefetch buffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A durable exchange."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A durable queue and the arguments that RabbitMQ compares with a second declaration."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A route from an exchange to a queue."""

    exchange: str
    queue: str
    routing_key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything that one queue set needs in the broker, in the order of declaration."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]


def main_exchange(namespace: str) -> str:
    """Return the exchange that tasks are published to."""
    return f"{namespace}.direct"


def dead_letter_exchange(namespace: str) -> str:
    """Return the exchange that dead letters are published to."""
    return f"{namespace}.dlx"


def work_queue(namespace: str, queue: str) -> str:
    """Return the queue that workers consume."""
    return f"{namespace}.{queue}"


def retry_queue(namespace: str, queue: str, delay_seconds: int) -> str:
    """Return the queue in which a retry with this delay waits."""
    return f"{namespace}.retry.{queue}.{delay_seconds}s"


def dead_letter_queue(namespace: str) -> str:
    """Return the queue that holds a copy of every task that failed permanently."""
    return f"{namespace}.dlq"


def retry_delay(spec: QueueSetSpec, queue: str, delay_seconds: float | None) -> int | None:
    """Return the seconds that name the retry queue for a delay, or None if the retry waits in Postgres instead."""
    if delay_seconds is None or not float(delay_seconds).is_integer():
        return None
    step = int(delay_seconds)
    return step if any(declared.name == queue and step in _ladder(spec, declared) for declared in spec.queues) else None


def topology_of(spec: QueueSetSpec) -> Topology:
    """Return the topology that a queue set declares.

    There is one durable retry queue per delay and routing key, with the delay as the queue's TTL: a one-hour retry
    never blocks a five-second retry.

    RabbitMQ dead-letters due messages without a confirm, and the relay repairs losses. At-least-once dead-lettering
    would let one message that a queue refuses, or that a restart interrupts, block all messages behind it for the
    three minutes of `dead_letter_worker_publisher_confirm_timeout`. A queue of bounded length has no retry queues,
    since it may refuse messages at any time: its retries wait in Postgres, and the relay publishes them with confirms.
    """
    main, dead = main_exchange(spec.namespace), dead_letter_exchange(spec.namespace)
    exchanges = (Exchange(name=main, kind="direct"), Exchange(name=dead, kind="direct"))
    dlq = Queue(name=dead_letter_queue(spec.namespace), arguments=_arguments(QueueType.QUORUM))
    queues, bindings = [dlq], []
    for queue in spec.queues:
        name = work_queue(spec.namespace, queue.name)
        queues.append(Queue(name=name, arguments=_work_arguments(queue)))
        queues.extend(_retry_queue(spec.namespace, queue, delay) for delay in _ladder(spec, queue))
        bindings.append(Binding(exchange=main, queue=name, routing_key=queue.name))
        bindings.append(Binding(exchange=dead, queue=dlq.name, routing_key=queue.name))
    return Topology(exchanges=exchanges, queues=tuple(queues), bindings=tuple(bindings))


def _ladder(spec: QueueSetSpec, queue: QueueSpec) -> list[int]:
    return spec.retry.delays_seconds if queue.max_length is None else []


def _arguments(kind: QueueType) -> dict[str, Any]:
    if kind is QueueType.CLASSIC:
        return {"x-queue-type": "classic", "x-overflow": "reject-publish"}
    return {"x-queue-type": "quorum", "x-overflow": "reject-publish", "x-delivery-limit": DELIVERY_LIMIT}


def _work_arguments(queue: QueueSpec) -> dict[str, Any]:
    arguments = _arguments(queue.type)
    if queue.max_length is not None:
        arguments["x-max-length"] = queue.max_length
    return arguments


def _retry_queue(namespace: str, queue: QueueSpec, delay_seconds: int) -> Queue:
    arguments = _arguments(queue.type) | {
        "x-message-ttl": delay_seconds * 1000,
        "x-dead-letter-exchange": main_exchange(namespace),
        "x-dead-letter-routing-key": queue.name,
    }
    return Queue(name=retry_queue(namespace, queue.name, delay_seconds), arguments=arguments)

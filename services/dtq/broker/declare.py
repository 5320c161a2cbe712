"""Declares topology, idempotently, and reports what was missing or different.

Never deletes or re-creates a queue: a queue with other arguments is reported.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

import aiormq
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection

from dtq.domain.errors import Rejected
from dtq.domain.topology import Queue, Topology

SETTLE_SECONDS: Final = 0.5
"""Pause before a lost queue is declared again, in seconds: ten times what RabbitMQ needs to cancel the consumers of a
deleted queue. A queue declared sooner would keep consumers that receive nothing: see `Consumer.resubscribe`."""

BeforeMaking = Callable[[frozenset[str]], Awaitable[None]]
"""Called with the names of missing queues before they are declared: afterwards nothing shows that they were lost."""

_log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class Declared:
    """The findings of a declaration.

    Attributes:
        missing: names of queues that were missing; their messages are lost.
        mismatched: the difference, by the name of each exchange or queue that exists with other arguments.
        absent: names of exchanges and queues that are not known to exist after a failed declaration.
        is_left_alone: the topology is complete, and the broker does not permit us to declare it: its arguments and
            bindings were not compared.
    """

    missing: set[str] = field(default_factory=set)
    absent: set[str] = field(default_factory=set)
    mismatched: dict[str, str] = field(default_factory=dict)
    is_left_alone: bool = False


class Channels:
    """Disposable channels: the broker closes a channel with each refusal, and the next use opens another."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None

    async def get(self) -> AbstractChannel:
        """Return an open channel."""
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel(publisher_confirms=False)
        return self._channel

    async def close(self) -> None:
        """Close the channel, if one is open."""
        if self._channel is not None and not self._channel.is_closed:
            await self._channel.close()


async def declare(
    connection: AbstractConnection,
    topology: Topology,
    found: Declared | None = None,
    *,
    before_making: BeforeMaking | None = None,
) -> Declared:
    """Make the broker hold `topology`; existing exchanges and queues stay unchanged.

    A queue that is deleted meanwhile is not silently re-created: this declaration fails, or the next one finds the
    queue missing. Without permission to declare, a complete topology is accepted as it is; after the first refusal
    nothing more is asked, since RabbitMQ logs each refusal as an error.

    Args:
        connection: an open connection.
        topology: the desired topology.
        found: filled step by step, for a caller that must learn of a loss even if the declaration fails later.
        before_making: called if queues are missing; its errors end the declaration.

    Raises:
        Rejected: something is missing, and the broker does not permit us to declare.
        AMQPError: the broker does not answer, or an exchange or a queue has just disappeared.
    """
    found = Declared() if found is None else found
    channels = Channels(connection)
    found.absent = {exchange.name for exchange in topology.exchanges} | {queue.name for queue in topology.queues}
    missing: list[Queue] = []
    was_declared = False
    try:
        there = {exchange.name for exchange in topology.exchanges if await exchange_exists(channels, exchange.name)}
        found.absent -= there
        was_declared = len(there) == len(topology.exchanges)
        missing = [queue for queue in topology.queues if not await _is_there(channels, queue, found)]
        found.is_left_alone &= was_declared and not missing
        if found.is_left_alone:
            return found
        if missing and was_declared:
            await asyncio.sleep(SETTLE_SECONDS)
        await _declare_exchanges(channels, topology, found)
        if missing and before_making is not None:
            await before_making(frozenset(queue.name for queue in missing))
        for queue in missing:
            await _make(channels, queue, found)
        for binding in topology.bindings:
            await (await channels.get()).queue_bind(binding.queue, binding.exchange, routing_key=binding.routing_key)
    except aiormq.exceptions.ChannelAccessRefused as error:
        if missing or not was_declared:
            raise Rejected("AccessRefused", f"RabbitMQ refuses to declare: {error}; grant configure on it") from error
        found.is_left_alone = True
    finally:
        await channels.close()
    for name, reason in found.mismatched.items():
        _log.error("argument mismatch found", name=name, reason=reason)
    return found


async def _declare_exchanges(channels: Channels, topology: Topology, found: Declared) -> None:
    for exchange in topology.exchanges:
        try:
            await (await channels.get()).exchange_declare(exchange.name, exchange_type=exchange.kind, durable=True)
        except aiormq.exceptions.ChannelPreconditionFailed as error:
            found.mismatched[exchange.name] = str(error)
        found.absent.discard(exchange.name)


async def exchange_exists(channels: Channels, exchange: str) -> bool:
    """Return whether an exchange exists."""
    try:
        await (await channels.get()).exchange_declare(exchange, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return False
    return True


async def _is_there(channels: Channels, queue: Queue, found: Declared) -> bool:
    """Return whether a queue exists. If so, compare its arguments at once: later it might have been re-created."""
    if await message_count(channels, queue.name) is None:
        return False
    found.absent.discard(queue.name)
    if not found.is_left_alone:
        try:
            await _declare_queue(channels, queue, found)
        except aiormq.exceptions.ChannelAccessRefused:
            found.is_left_alone = True
    return True


async def _make(channels: Channels, queue: Queue, found: Declared) -> None:
    found.missing.add(queue.name)
    try:
        await _declare_queue(channels, queue, found)
    except aiormq.exceptions.ChannelAccessRefused:
        found.missing.discard(queue.name)  # the queue is still missing, and the next declaration finds that again
        raise
    found.absent.discard(queue.name)


async def _declare_queue(channels: Channels, queue: Queue, found: Declared) -> None:
    try:
        await (await channels.get()).queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))
    except aiormq.exceptions.ChannelPreconditionFailed as error:
        found.mismatched[queue.name] = str(error)


async def message_count(channels: Channels, queue: str) -> int | None:
    """Return how many messages of a queue are ready, or None if the queue is missing."""
    try:
        answer = await (await channels.get()).queue_declare(queue, passive=True)
    except aiormq.exceptions.ChannelNotFoundEntity:
        return None
    return int(answer.message_count or 0)

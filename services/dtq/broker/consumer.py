"""Consuming: deliveries of several queues, most urgent first, acknowledged once their claim is committed.

Owns the consuming channels and the buffer of deliveries. A channel that dies takes its buffered deliveries with
it: the broker sends them again. Must never wait for a handler.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from dtq.broker.declare import Channels, consumer_count
from dtq.broker.link import BROKER_ERRORS, Link
from dtq.domain.errors import Unavailable
from dtq.domain.fairness import take_weighted
from dtq.runtime.metrics import BrokerMetrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A queue to consume: its routing key, its name in the broker, and how many deliveries may be unacknowledged."""

    queue: str
    name: str
    prefetch: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message received; it can be acknowledged only on the channel that delivered it."""

    queue: str
    body: bytes
    tag: int
    channel: AbstractChannel


class Consumer:
    """Consumes on a link of its own.

    Args:
        subscriptions: most urgent first.
        declare: makes sure of the topology before subscribing.
    """

    def __init__(
        self,
        url: str,
        *,
        subscriptions: Sequence[Subscription],
        declare: Callable[[AbstractConnection], Awaitable[None]],
        metrics: BrokerMetrics,
    ) -> None:
        self._subscriptions = subscriptions
        self._declare = declare
        self._channels: list[AbstractChannel] = []
        self._buffers: dict[str, deque[Delivery]] = {one.queue: deque() for one in subscriptions}
        self._arrived = asyncio.Event()
        self._draining = False
        self.link = Link(url, purpose="consume", setup=self._setup, metrics=metrics)

    @property
    def is_consuming(self) -> bool:
        """Whether every queue has its consumer."""
        return (
            self.link.is_up
            and len(self._channels) == len(self._subscriptions)
            and all(not channel.is_closed for channel in self._channels)
        )

    async def take(self, limit: int, timeout_seconds: float) -> list[Delivery]:
        """Return up to `limit` deliveries, waiting a bounded time for the first one."""
        self._arrived.clear()
        if not any(self._buffers.values()):
            try:
                async with asyncio.timeout(timeout_seconds):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        return take_weighted(list(self._buffers.values()), limit)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Return deliveries that could not be claimed now to the front of their buffers, in order."""
        for delivery in reversed(deliveries):
            if not delivery.channel.is_closed:
                self._buffers[delivery.queue].appendleft(delivery)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries, which must be the oldest of their channels: one frame a channel.

        What cannot be acknowledged is delivered again, and dropped by its claim.
        """
        last: dict[AbstractChannel, int] = {}
        for delivery in deliveries:
            last[delivery.channel] = max(delivery.tag, last.get(delivery.channel, 0))
        for channel, tag in last.items():
            try:
                await channel.basic_ack(tag, multiple=True, wait=False)
            except BROKER_ERRORS as error:
                _log.debug("an acknowledgement was lost", reason=str(error))

    async def check(self) -> bool:
        """Rebuild the link if the broker knows no consumer of a queue that we think we consume; return False.

        A server-sent cancel does not reach us for every kind of deletion: the broker is asked.
        """
        if not self.is_consuming or self._draining:
            return False
        try:
            channels = Channels(self.link.connection())
            for subscription in self._subscriptions:
                if not await consumer_count(channels, subscription.name):
                    self.link.invalidate(f"the broker knows no consumer of {subscription.name}")
                    break
            await channels.close()
        except (*BROKER_ERRORS, Unavailable) as error:
            _log.debug("consumers could not be checked", reason=str(error))
        return False

    async def drain(self) -> None:
        """Stop consuming and give every buffered delivery back to the broker."""
        self._draining = True
        for channel in self._channels:
            try:
                # Closing the channel cancels the consumer and requeues what is unacknowledged.
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await channel.close()
            except BROKER_ERRORS as error:
                _log.debug("closing a channel failed", reason=str(error))
        for buffer in self._buffers.values():
            buffer.clear()

    async def _setup(self, connection: AbstractConnection) -> None:
        if self._draining:
            return
        await self._declare(connection)
        self._channels = []
        for buffer in self._buffers.values():
            buffer.clear()
        for subscription in self._subscriptions:
            self._channels.append(await self._subscribe(connection, subscription))

    async def _subscribe(self, connection: AbstractConnection, subscription: Subscription) -> AbstractChannel:
        channel = await connection.channel(publisher_confirms=False)
        buffer = self._buffers[subscription.queue]

        async def on_message(message: DeliveredMessage) -> None:
            if message.delivery_tag is not None:
                buffer.append(Delivery(subscription.queue, message.body, message.delivery_tag, channel))
                self._arrived.set()

        def on_cancel(_: object) -> None:
            self.link.invalidate(f"the broker cancelled the consumer of {subscription.name}")

        channel.on_consumer_cancel_callbacks.add(on_cancel)
        channel.closing.add_done_callback(
            lambda _: None if self._draining else self.link.invalidate(f"the channel of {subscription.name} closed")
        )
        await channel.basic_qos(prefetch_count=subscription.prefetch)
        await channel.basic_consume(subscription.name, on_message)
        return channel


_CLOSE_SECONDS: Final = 2.0
"""Longest wait for a channel to close, in seconds."""

"""Consuming: deliveries of several queues, most urgent first, acknowledged once their claim is committed.

Owns the consuming channels and the buffer of deliveries. A channel that dies takes its buffered deliveries with
it: the broker sends them again. Must never wait for a handler, and never trust silence: see `Consumer.renew`.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

import structlog
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from dtq.broker.link import BROKER_ERRORS, SETUP_SECONDS, Link, Url
from dtq.domain.errors import Unavailable
from dtq.domain.fairness import take_weighted
from dtq.runtime.loops import own_cancellation
from dtq.runtime.metrics import BrokerMetrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A queue to consume: its routing key, its name in the broker, and how many deliveries may be unacknowledged."""

    queue: str
    name: str
    prefetch: int


@dataclass(eq=False, slots=True)
class Feed:
    """One channel with one consumer, and the tags of the last message delivered and acknowledged on it."""

    subscription: Subscription
    channel: AbstractChannel
    tag: str = ""
    delivered: int = 0
    acknowledged: int = 0
    retired: bool = False
    acked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is unacknowledged: closing the channel now gives nothing back."""
        return self.delivered == self.acknowledged


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message received; it can be acknowledged only on the channel that delivered it."""

    queue: str
    body: bytes
    tag: int
    feed: Feed


class Consumer:
    """Consumes on a link of its own.

    Args:
        subscriptions: most urgent first.
        declare: makes sure of the topology before subscribing.
    """

    def __init__(
        self,
        url: Url,
        *,
        subscriptions: Sequence[Subscription],
        declare: Callable[[AbstractConnection], Awaitable[None]],
        metrics: BrokerMetrics,
    ) -> None:
        self._subscriptions = subscriptions
        self._declare = declare
        self._feeds: list[Feed] = []
        self._buffers: dict[str, deque[Delivery]] = {one.queue: deque() for one in subscriptions}
        self._arrived = asyncio.Event()
        self._draining = False
        self.link = Link(url, purpose="consume", setup=self._setup, metrics=metrics)

    @property
    def is_consuming(self) -> bool:
        """Whether every queue has its consumer."""
        return (
            self.link.is_up
            and len(self._feeds) == len(self._subscriptions)
            and all(not feed.channel.is_closed for feed in self._feeds)
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
            if not delivery.feed.channel.is_closed:
                self._buffers[delivery.queue].appendleft(delivery)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries, which must be the oldest of their channels: one frame a channel.

        What cannot be acknowledged is delivered again, and dropped by its claim.
        """
        last: dict[Feed, int] = {}
        for delivery in deliveries:
            last[delivery.feed] = max(delivery.tag, last.get(delivery.feed, 0))
        for feed, tag in last.items():
            try:
                with own_cancellation():
                    await feed.channel.basic_ack(tag, multiple=True, wait=False)
                feed.acknowledged = tag
                feed.acked.set()
            except BROKER_ERRORS as error:
                _log.debug("an acknowledgement was lost", reason=str(error))

    async def renew(self) -> bool:
        """Subscribe anew, on a new channel, wherever nothing is unacknowledged; return False.

        No question to the broker finds a deaf consumer. When a quorum queue is deleted and declared again at
        once, RabbitMQ (3.10, and the code of 4.x) subscribes in our place instead of cancelling, counts us as a
        consumer, and drops what it takes for repeated: as many messages as it had sent us before. They are
        neither ready nor delivered until our channel closes.
        """
        if not self.is_consuming or self._draining:
            return False
        feeds = self._feeds
        try:
            async with asyncio.timeout(SETUP_SECONDS):
                connection = self.link.connection()
                with own_cancellation():
                    for at, feed in enumerate(feeds):
                        if feed.is_clean:
                            feeds[at] = await self._subscribe(connection, feed.subscription)
                            await self._retire(feed)
        except (*BROKER_ERRORS, Unavailable) as error:
            if feeds is self._feeds:  # else the link has been rebuilt meanwhile
                self.link.invalidate(f"a subscription could not be renewed: {type(error).__name__}")
        return False

    async def drain(self) -> None:
        """Stop consuming and give every buffered delivery back to the broker."""
        self._draining = True
        for feed in self._feeds:
            await self._close(feed)
        for buffer in self._buffers.values():
            buffer.clear()

    async def _setup(self, connection: AbstractConnection) -> None:
        if self._draining:
            return
        await self._declare(connection)
        self._feeds = []
        for buffer in self._buffers.values():
            buffer.clear()
        for subscription in self._subscriptions:
            self._feeds.append(await self._subscribe(connection, subscription))

    async def _subscribe(self, connection: AbstractConnection, subscription: Subscription) -> Feed:
        channel = await connection.channel(publisher_confirms=False)
        feed = Feed(subscription, channel)
        buffer = self._buffers[subscription.queue]

        async def on_message(message: DeliveredMessage) -> None:
            if message.delivery_tag is not None:
                feed.delivered = message.delivery_tag
                buffer.append(Delivery(subscription.queue, message.body, message.delivery_tag, feed))
                self._arrived.set()

        def on_cancel(_: object) -> None:
            self.link.invalidate(f"the broker cancelled the consumer of {subscription.name}")

        def on_close(_: object) -> None:
            if not (feed.retired or self._draining):
                self.link.invalidate(f"the channel of {subscription.name} closed")

        channel.on_consumer_cancel_callbacks.add(on_cancel)
        channel.closing.add_done_callback(on_close)
        await channel.basic_qos(prefetch_count=subscription.prefetch)
        answer = await channel.basic_consume(subscription.name, on_message)
        feed.tag = str(answer.consumer_tag)
        return feed

    async def _retire(self, feed: Feed) -> None:
        """Cancel a consumer, let what it was sent last be acknowledged, and close its channel."""
        feed.retired = True
        await feed.channel.basic_cancel(feed.tag, timeout=_CLOSE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETIRE_SECONDS):
                while not feed.is_clean:
                    feed.acked.clear()
                    await feed.acked.wait()
        await self._close(feed)

    async def _close(self, feed: Feed) -> None:
        """Close a channel: the broker gives back what is unacknowledged."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                with own_cancellation():
                    await feed.channel.close()
        except BROKER_ERRORS as error:
            _log.debug("closing a channel failed", reason=str(error))
        buffer = self._buffers[feed.subscription.queue]
        for delivery in [one for one in buffer if one.feed is feed]:
            buffer.remove(delivery)


_RETIRE_SECONDS: Final = 1.0
"""Longest wait for the acknowledgements of a consumer that was replaced, in seconds."""
_CLOSE_SECONDS: Final = 2.0
"""Longest wait for a channel to close, in seconds."""

"""Consumes several queues, most urgent first: the channels, and the buffer of deliveries until they are claimed.

A queue that cannot be consumed does not affect the others. When a channel dies, its buffered deliveries are discarded
and the broker sends them again. The consumer never waits for a handler, and does not trust an idle subscription: see
`Consumer.resubscribe`.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import msgspec
import structlog
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage

from dtq.broker.broker_connection import BROKER_ERRORS, SETUP_SECONDS, BrokerConnection, Url
from dtq.broker.driver import Connection
from dtq.broker.frames import Deliveries
from dtq.domain.errors import Unavailable
from dtq.domain.fairness import take_weighted
from dtq.runtime.loops import Retries, Wait, foreign_cancellation_as_error, wait
from dtq.runtime.metrics import BrokerMetrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A queue to consume: its routing key, its name in the broker, and how many deliveries may be unacknowledged."""

    queue: str
    name: str
    prefetch: int


@dataclass(eq=False, slots=True)
class ConsumerChannel:
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
        """Whether nothing is unacknowledged: closing the channel now returns no message to the queue."""
        return self.delivered == self.acknowledged


class Delivery(msgspec.Struct, eq=False, gc=False):
    """A received message; it can be acknowledged only on the channel that delivered it."""

    queue: str
    body: bytes
    tag: int
    feed: ConsumerChannel
    arrived_at: float


@dataclass(frozen=True, slots=True)
class _Refused:
    """A queue that could not be consumed: the reason, and when it is tried again."""

    reason: str
    retries: Retries


class Consumer:
    """Consumes on a broker connection of its own.

    Args:
        subscriptions: the initial queues, most urgent first; see `follow`.
        window: how many unclaimed messages of each queue are held initially; see `resize`.
        declare: declares the topology before subscribing.
    """

    def __init__(
        self,
        url: Url,
        *,
        subscriptions: Sequence[Subscription],
        window: int,
        declare: Callable[[AbstractConnection], Awaitable[None]],
        metrics: BrokerMetrics,
    ) -> None:
        self._subscriptions = tuple(subscriptions)
        self.window = window
        self._resizing = False
        self._declare = declare
        self._feeds: dict[str, ConsumerChannel] = {}
        self._refused: dict[str, _Refused] = {}
        self._buffers: dict[str, deque[Delivery]] = {subscription.queue: deque() for subscription in subscriptions}
        self._one_at_a_time = asyncio.Lock()
        self._draining = False
        self.arrived = asyncio.Event()
        """Set when a message is delivered; set it to end a `take`."""
        self.broker = BrokerConnection(url, purpose="consume", setup=self._setup, metrics=metrics)

    @property
    def is_consuming(self) -> bool:
        """Whether every queue has a consumer."""
        return self.broker.is_up and not self.missing

    @property
    def missing(self) -> dict[str, str]:
        """The reason for each queue without a consumer, by the queue's name in the broker."""
        if self.window == 0 or self._resizing:
            return {}  # on purpose: there is no room for any message
        return {
            subscription.name: self._refused[subscription.queue].reason
            if subscription.queue in self._refused
            else "no consumer yet"
            for subscription in self._subscriptions
            if (feed := self._feeds.get(subscription.queue)) is None or feed.channel.is_closed
        }

    def follow(self, subscriptions: Sequence[Subscription]) -> None:
        """Set the queues to consume, most urgent first; `tend` applies the change."""
        self._subscriptions = tuple(subscriptions)
        wanted = [subscription.queue for subscription in subscriptions]
        # Buffered deliveries of a removed queue may still be taken until its channel is closed.
        held = [queue for queue in self._feeds if queue not in wanted]
        self._buffers = {queue: self._buffers.get(queue, deque()) for queue in (*wanted, *held)}
        self._refused = {queue: refused for queue, refused in self._refused.items() if queue in wanted}

    async def tend(self) -> bool:
        """Subscribe to queues without a consumer, and cancel the consumers of removed queues; return False."""
        if not self.broker.is_up or self._draining:
            return False
        async with self._changing("updating the consumers failed") as (connection, feeds):
            await self._align(connection, feeds)
        return False

    @property
    def oldest_seconds(self) -> float:
        """How long the oldest unclaimed message has been held, in seconds; 0 if none is held."""
        now = time.monotonic()
        return max((now - buffer[0].arrived_at for buffer in self._buffers.values() if buffer), default=0.0)

    async def resize(self, window: int) -> None:
        """Hold up to `window` unclaimed messages of each queue from now on, and return held messages to the broker.

        With 0 nothing is consumed. RabbitMQ applies a changed prefetch to new consumers only, hence the new channels.
        While the window grows, the queue keeps a consumer: otherwise a message that other workers hand on would find
        none here. The caller must be the task that takes and acknowledges, with neither under way.
        """
        if self._draining or window == self.window or self._one_at_a_time.locked():
            return
        grows = window > self.window
        self.window = window
        self._resizing = True
        try:
            async with self._one_at_a_time, asyncio.timeout(SETUP_SECONDS):
                feeds = self._feeds
                with foreign_cancellation_as_error():
                    for queue, feed in list(feeds.items()):
                        del feeds[queue]
                        feed.retired = True
                        if grows and self.broker.is_up:
                            await self._try(self.broker.connection(), feeds, feed.subscription)
                        await self._close(feed)
                    if self.broker.is_up:
                        await self._align(self.broker.connection(), feeds)
        except (*BROKER_ERRORS, Unavailable) as error:
            self.broker.invalidate(f"changing the prefetch window failed: {type(error).__name__}")
        finally:
            self._resizing = False

    async def take(self, limit: int, timeout_seconds: float, wait: Wait = wait) -> list[Delivery]:
        """Return up to `limit` deliveries, waiting a bounded time for the first one.

        Args:
            limit: most deliveries.
            timeout_seconds: longest wait for the first one.
            wait: waits for an event for at most that time.
        """
        self.arrived.clear()
        if not any(self._buffers.values()) and not await wait(self.arrived, timeout_seconds):
            return []
        return take_weighted(list(self._buffers.values()), limit)

    def put_back(self, deliveries: Sequence[Delivery]) -> None:
        """Put deliveries that could not be claimed back at the front of their buffers, in order."""
        for delivery in reversed(deliveries):
            if not delivery.feed.channel.is_closed and delivery.queue in self._buffers:
                self._buffers[delivery.queue].appendleft(delivery)

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries, which must be the oldest of their channels: one frame per channel.

        A delivery that cannot be acknowledged is delivered again, and its second claim fails.
        """
        last: dict[ConsumerChannel, int] = {}
        for delivery in deliveries:
            last[delivery.feed] = max(delivery.tag, last.get(delivery.feed, 0))
        for feed, tag in last.items():
            try:
                with foreign_cancellation_as_error():
                    await feed.channel.basic_ack(tag, multiple=True, wait=False)
                feed.acknowledged = tag
                feed.acked.set()
            except BROKER_ERRORS as error:
                _log.debug("acknowledgement failed", reason=str(error))

    async def resubscribe(self) -> bool:
        """Subscribe again, on a new channel, to each queue without unacknowledged messages; return False.

        The broker cannot be asked whether a consumer still receives messages. When a quorum queue is deleted and
        declared again at once, RabbitMQ (3.10, and the code of 4.x) does not cancel our consumer but subscribes it to
        the new queue, and drops as many messages as it had sent us before, as if they were repeated. They are neither
        ready nor delivered until our channel closes.
        """
        if not self.broker.is_up or self._draining:
            return False
        async with self._changing("resubscribing failed") as (connection, feeds):
            for queue, feed in list(feeds.items()):
                if feed.is_clean:
                    feeds[queue] = await self._subscribe(connection, feed.subscription)
                    await self._retire(feed)
        return False

    @asynccontextmanager
    async def _changing(self, trouble: str) -> AsyncIterator[tuple[AbstractConnection, dict[str, ConsumerChannel]]]:
        """Change the subscriptions, within a bounded time; after a failure the connection is rebuilt."""
        async with self._one_at_a_time:
            feeds = self._feeds
            try:
                async with asyncio.timeout(SETUP_SECONDS):
                    with foreign_cancellation_as_error():
                        yield self.broker.connection(), feeds
            except (*BROKER_ERRORS, Unavailable) as error:
                if feeds is self._feeds:  # otherwise the connection was rebuilt meanwhile
                    self.broker.invalidate(f"{trouble}: {type(error).__name__}")

    async def drain(self) -> None:
        """Stop consuming and return every buffered delivery to the broker."""
        self._draining = True
        for feed in list(self._feeds.values()):
            await self._close(feed)
        for buffer in self._buffers.values():
            buffer.clear()

    async def _setup(self, connection: AbstractConnection) -> None:
        if self._draining:
            return
        await self._declare(connection)
        self._feeds = {}
        self._refused = {}
        for buffer in self._buffers.values():
            buffer.clear()
        await self._align(connection, self._feeds)

    async def _align(self, connection: AbstractConnection, feeds: dict[str, ConsumerChannel]) -> None:
        """Make the consumers match the queues to consume; a queue that refuses a consumer does not delay the others.

        Raises:
            AMQPError: the connection is gone.
        """
        wanted = {subscription.queue: subscription for subscription in self._subscriptions} if self.window else {}
        for queue, feed in list(feeds.items()):
            if wanted.get(queue) != feed.subscription:
                del feeds[queue]
                await self._retire(feed)
                if queue not in {subscription.queue for subscription in self._subscriptions}:
                    self._buffers.pop(queue, None)
                    _log.info("consumer stopped", queue=feed.subscription.name)
        for queue, subscription in wanted.items():
            refused = self._refused.get(queue)
            if queue not in feeds and (refused is None or refused.retries.is_due):
                await self._try(connection, feeds, subscription)

    async def _try(
        self, connection: AbstractConnection, feeds: dict[str, ConsumerChannel], subscription: Subscription
    ) -> None:
        queue = subscription.queue
        try:
            feeds[queue] = await self._subscribe(connection, subscription)
        except BROKER_ERRORS as error:
            if connection.is_closed:
                raise
            retries = self._refused[queue].retries if queue in self._refused else Retries()
            reason = f"{type(error).__name__}: {error}"[:300]
            self._refused[queue] = _Refused(reason, retries)
            if retries.failed():
                _log.error("consumer refused", queue=subscription.name, reason=reason)
        else:
            self._refused.pop(queue, None)
            _log.info("consumer started", queue=subscription.name)

    async def _subscribe(self, connection: AbstractConnection, subscription: Subscription) -> ConsumerChannel:
        channel = await connection.channel(publisher_confirms=False)
        feed = ConsumerChannel(subscription, channel)

        def arrived(tag: int, body: bytes) -> None:
            buffer = self._buffers.get(subscription.queue)
            if buffer is not None:
                feed.delivered = tag
                buffer.append(Delivery(subscription.queue, body, tag, feed, time.monotonic()))
                self.arrived.set()

        async def on_message(message: DeliveredMessage) -> None:
            if message.delivery_tag is not None:
                arrived(message.delivery_tag, message.body)

        def on_cancel(_: object) -> None:
            self.broker.invalidate(f"the broker cancelled the consumer of {subscription.name}")

        def on_close(_: object) -> None:
            if not (feed.retired or self._draining):
                self.broker.invalidate(f"the channel of {subscription.name} closed")

        assert isinstance(connection, Connection)
        connection.listen(channel, Deliveries(arrived))
        channel.on_consumer_cancel_callbacks.add(on_cancel)
        await channel.basic_qos(prefetch_count=min(subscription.prefetch, self.window))
        answer = await channel.basic_consume(subscription.name, on_message)
        feed.tag = str(answer.consumer_tag)
        channel.closing.add_done_callback(on_close)  # only now: a refusal to consume closes the channel too
        return feed

    async def _retire(self, feed: ConsumerChannel) -> None:
        """Cancel a consumer, wait until its last messages are acknowledged, and close its channel."""
        feed.retired = True
        await feed.channel.basic_cancel(feed.tag, timeout=_CLOSE_SECONDS)
        with suppress(TimeoutError):
            async with asyncio.timeout(_RETIRE_SECONDS):
                while not feed.is_clean:
                    feed.acked.clear()
                    await feed.acked.wait()
        await self._close(feed)

    async def _close(self, feed: ConsumerChannel) -> None:
        """Close a channel: the broker returns its unacknowledged messages to the queue."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                with foreign_cancellation_as_error():
                    await feed.channel.close()
        except BROKER_ERRORS as error:
            _log.debug("channel close failed", reason=str(error))
        buffer = self._buffers.get(feed.subscription.queue, deque())
        for delivery in [buffered for buffered in buffer if buffered.feed is feed]:
            buffer.remove(delivery)


TEND_SECONDS: Final = 1.0
"""How often a worker matches its consumers to the queues, in seconds."""
_RETIRE_SECONDS: Final = 1.0
"""Longest wait for the acknowledgements of a replaced consumer, in seconds."""
_CLOSE_SECONDS: Final = 2.0
"""Longest wait for a channel to close, in seconds."""

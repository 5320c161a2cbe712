"""Publishes messages: persistent, mandatory, confirmed, within a bounded time.

A message counts as published only after the broker has confirmed it.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final

import aiormq
import structlog
from aiormq.abc import AbstractConnection

from dtq.broker.broker_connection import BROKER_ERRORS, SETUP_SECONDS, BrokerConnection, Url, translated
from dtq.broker.confirms import Refused, Returned
from dtq.broker.declare import Channels, exchange_exists
from dtq.broker.publish_window import Message, PublishChannel
from dtq.domain.errors import Rejected, Unavailable
from dtq.runtime.loops import foreign_cancellation_as_error
from dtq.runtime.metrics import BrokerMetrics

RENEW_SECONDS: Final = 10.0
"""How often refusals open a new channel, in seconds. A quorum queue tells a channel when it is full, and that it has
room only when a message is consumed. If a policy made the room, the old channel would be refused for ever."""

_log = structlog.get_logger(__name__)


class Publisher:
    """Publishes on a broker connection of its own: a blocked publisher must not stop consuming.

    Args:
        declare: declares the topology; called for each new connection, and when a message was returned or an
            exchange was missing.
        refusal: returns why an exchange may not be published to now, or None.
    """

    def __init__(
        self,
        url: Url,
        *,
        declare: Callable[[AbstractConnection], Awaitable[None]],
        refusal: Callable[[str], str | None],
        metrics: BrokerMetrics,
        timeout_seconds: float,
    ) -> None:
        self._declare = declare
        self._refusal = refusal
        self._metrics = metrics
        self._timeout_seconds = timeout_seconds
        self._channel: PublishChannel | None = None
        self._spent: PublishChannel | None = None
        self._renewed_at = -math.inf
        self._opening = asyncio.Lock()
        self.broker = BrokerConnection(url, purpose="publish", setup=self._setup, metrics=metrics)

    def check(self) -> None:
        """Check that the broker can be published to.

        Raises:
            Unavailable: the broker is known to be down or blocked.
        """
        if not self.broker.is_up:
            raise Unavailable("RabbitMQ is not connected")
        if self.broker.is_blocked:
            raise Unavailable("RabbitMQ has blocked publishers: it is short of memory or disk")

    async def publish(self, messages: Sequence[Message]) -> list[str | None]:
        """Publish a window of messages; return, in order, None for each confirmed message, or why it is not confirmed.

        An unconfirmed message may have arrived. Never raises because of the broker. A message to a missing exchange
        closes the channel for the whole window: such an exchange is not tried a second time.
        """
        results = [self._refusal(message.exchange) for message in messages]
        open_ = [at for at, refused in enumerate(results) if refused is None]
        for at, result in zip(open_, await self._publish_window([messages[at] for at in open_]), strict=True):
            results[at] = result
        again = [at for at, result in enumerate(results) if result in (_RETURNED, _NO_EXCHANGE)]
        if again and await self._declared_again():
            there = await self._existing({messages[at].exchange for at in again})
            again = [at for at in again if messages[at].exchange in there]
            retried = await self._publish_window([messages[at] for at in again])
            for at, result in zip(again, retried, strict=True):
                results[at] = result
        if _REFUSED in results:
            await self._renew()
        return results

    async def _publish_window(self, messages: Sequence[Message]) -> list[str | None]:
        try:
            channel = await self._confirming()
            with foreign_cancellation_as_error():
                met = await channel.publish(messages, timeout_seconds=self._timeout_seconds)
        except (*BROKER_ERRORS, Unavailable) as error:
            self._metrics.publishes.labels("lost").inc(len(messages))
            return [f"not connected: {error}"] * len(messages)
        if any(isinstance(error, TimeoutError) for error in met) and not self.broker.is_blocked:
            # The connection may be dead without notice: a new connection shows that long before the heartbeat.
            # A blocked connection is alive: the broker has reported the block.
            self.broker.invalidate(self._no_confirm)
        return [self._told(error) for error in met]

    def _told(self, error: BaseException | None) -> str | None:
        """Count a message, and return why it is not confirmed, or None if it is confirmed."""
        match error:
            case None:
                result, label = None, "ok"
            case Returned():
                result, label = _RETURNED, "returned"
            case Refused():
                result, label = _REFUSED, "refused"
            case TimeoutError():
                result, label = self._no_confirm, "timeout"
            case aiormq.exceptions.ChannelNotFoundEntity():
                result, label = _NO_EXCHANGE, "lost"
            case _:
                result, label = f"connection lost: {type(error).__name__}", "lost"
        self._metrics.publishes.labels(label).inc()
        return result

    @property
    def _no_confirm(self) -> str:
        return f"no confirm within {self._timeout_seconds:g} s"

    async def _confirming(self) -> PublishChannel:
        """Return the channel with confirms; the broker closes the channel when an exchange is missing."""
        connection = self.broker.connection()
        async with self._opening:
            if self._channel is None or not self._channel.is_open_on(connection):
                with foreign_cancellation_as_error():
                    self._channel = await PublishChannel.open(connection, timeout_seconds=self._timeout_seconds)
            return self._channel

    async def _renew(self) -> None:
        """Make the next window open a new channel, and close the previously replaced one, which is no longer used."""
        if time.monotonic() - self._renewed_at < max(RENEW_SECONDS, self._timeout_seconds):
            return
        self._renewed_at = time.monotonic()
        spent, self._spent, self._channel = self._spent, self._channel, None
        if spent is not None:
            with suppress(*BROKER_ERRORS):
                async with asyncio.timeout(self._timeout_seconds):
                    with foreign_cancellation_as_error():
                        await spent.close()

    async def declare(self) -> None:
        """Declare the topology now.

        Raises:
            Unavailable: the broker does not answer, or does not permit us to declare.
        """
        try:
            with translated():
                async with asyncio.timeout(SETUP_SECONDS):
                    await self._declare(self.broker.connection())
        except Rejected as error:
            raise Unavailable(str(error)) from error

    async def _declared_again(self) -> bool:
        """Declare the topology after a message could not be routed; return whether to try again."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self.declare()
        except (TimeoutError, Unavailable) as error:
            _log.warning("topology declaration failed", reason=str(error))
            return False
        return True

    async def _existing(self, exchanges: set[str]) -> set[str]:
        """Return the exchanges that exist now; the broker's default exchange always exists."""
        found = exchanges & {""}
        try:
            async with asyncio.timeout(self._timeout_seconds):
                with foreign_cancellation_as_error():
                    channels = Channels(self.broker.connection())
                    for name in sorted(exchanges - {""}):
                        with suppress(aiormq.exceptions.ChannelAccessRefused):
                            found |= {name} if await exchange_exists(channels, name) else set()
                    await channels.close()
        except (*BROKER_ERRORS, Unavailable) as error:
            _log.warning("exchange check failed", reason=f"{type(error).__name__}: {error}")
        return found

    async def _setup(self, connection: AbstractConnection) -> None:
        await self._declare(connection)
        self._channel = await PublishChannel.open(connection)


_REFUSED: Final = "refused by the broker: the queue is full"
_RETURNED: Final = "returned: no queue is bound for it"
_NO_EXCHANGE: Final = "the exchange is missing"

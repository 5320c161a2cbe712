"""A publish window: publishes many messages in few writes, and returns the result of each.

The driver itself needs one call, one task and one write for each message.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final, Self

import msgspec
from aiormq.abc import AbstractChannel, AbstractConnection
from aiormq.channel import Channel
from aiormq.exceptions import DeliveryError, PublishError
from pamqp.commands import Basic

from dtq.broker.confirms import Confirms, Refused, Returned, Window
from dtq.broker.driver import Connection
from dtq.broker.frames import pack_message

PERSISTENT: Final = 2
WRITE_MESSAGES: Final = 500
"""Most messages packed and written at once: about 3 ms of the event loop."""


class Message(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A message to publish.

    Attributes:
        ttl_ms: the message's own TTL, in milliseconds; None means the queue's TTL.
    """

    exchange: str
    routing_key: str
    body: bytes
    ttl_ms: int | None = None


class PublishChannel:
    """A channel with confirms; no other code publishes on it."""

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        assert isinstance(connection, Connection)
        assert isinstance(channel, Channel)
        self._connection = connection
        self._channel = channel
        self._confirms = Confirms()
        self._takes_frames = connection.listen(channel, self._confirms)
        channel.closing.add_done_callback(self._closed)

    @classmethod
    async def open(cls, connection: AbstractConnection, *, timeout_seconds: float | None = None) -> Self:
        """Open a channel on a connection."""
        return cls(connection, await connection.channel(timeout=timeout_seconds))

    def is_open_on(self, connection: AbstractConnection) -> bool:
        """Whether messages can be published here on this connection."""
        return self._connection is connection and not self._channel.is_closed

    async def close(self) -> None:
        """Close the channel."""
        if not self._channel.is_closed:
            await self._channel.close()

    async def publish(self, messages: Sequence[Message], *, timeout_seconds: float) -> list[Exception | None]:
        """Publish a window of messages; return, in order, None for each confirmed one, or its error.

        The error is `Returned`, `Refused`, `TimeoutError`, or the error that closed the channel.

        Args:
            messages: what to publish.
            timeout_seconds: for the whole window.
        """
        if not self._takes_frames:
            return await self._publish_by_driver(messages, timeout_seconds)
        window = Window(len(messages))
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for first in range(0, len(messages), WRITE_MESSAGES):
                    if self._channel.is_closed:
                        raise ConnectionError("the channel is closed")
                    await self._connection.write(self._packed(messages[first : first + WRITE_MESSAGES], window, first))
                if window.missing:
                    await window.answered
        return window.outcomes

    def _packed(self, messages: Sequence[Message], window: Window, first: int) -> bytes:
        """Return the frames of messages that are written next; their tags must match those that the broker counts."""
        number, part_bytes = self._channel.number, self._channel.max_content_size
        return b"".join(
            pack_message(
                number,
                message.exchange,
                message.routing_key,
                message.body,
                message_id=str(self._confirms.add(window, index)),
                ttl_ms=message.ttl_ms,
                part_bytes=part_bytes,
            )
            for index, message in enumerate(messages, first)
        )

    async def _publish_by_driver(self, messages: Sequence[Message], timeout_seconds: float) -> list[Exception | None]:
        publish = partial(self._channel.basic_publish, mandatory=True, timeout=timeout_seconds)
        results = await asyncio.gather(
            *(
                publish(
                    message.body,
                    exchange=message.exchange,
                    routing_key=message.routing_key,
                    properties=Basic.Properties(
                        delivery_mode=PERSISTENT,
                        content_type="application/json",
                        expiration=None if message.ttl_ms is None else str(message.ttl_ms),
                    ),
                )
                for message in messages
            ),
            return_exceptions=True,
        )
        return [_outcome(result) for result in results]

    def _closed(self, closing: "asyncio.Future[None]") -> None:
        reason = None if closing.cancelled() else closing.exception()
        self._confirms.fail(reason if isinstance(reason, Exception) else ConnectionError("the channel is closed"))


def _outcome(result: object) -> Exception | None:
    match result:
        case PublishError():
            return Returned()
        case DeliveryError():
            return Refused()
        case Exception():
            return result
    return None

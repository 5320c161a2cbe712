"""A publish window: publishes many messages in few writes, and returns the result of each.

It relies on how the driver stores its confirms, since the driver itself needs one call, one task and one write per
message. A message that was not written gets no delivery tag; otherwise each later confirm would be credited to the
wrong message.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from aiormq.abc import AbstractChannel, ChannelFrame
from aiormq.channel import Channel
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

PERSISTENT: Final = 2
WRITE_MESSAGES: Final = 100
"""Most messages per write: a larger write would block the event loop for tens of milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message to publish.

    Attributes:
        ttl_ms: the message's own TTL, in milliseconds; None means the queue's TTL.
    """

    exchange: str
    routing_key: str
    body: bytes
    ttl_ms: int | None = None


async def publish_window(
    channel: AbstractChannel, messages: Sequence[Message], ids: Sequence[str], *, timeout_seconds: float
) -> list[BaseException | None]:
    """Publish on a channel with confirms; return, in order, None for each confirmed message, or its error.

    The error is `PublishError` for a returned message, `DeliveryError` for a refused one, `TimeoutError`, or the error
    that closed the channel.

    Args:
        channel: no other code publishes on it.
        messages: what to publish.
        ids: a `message_id` for each, unique on the channel: the driver finds a returned message by it.
        timeout_seconds: for the whole window.
    """
    assert isinstance(channel, Channel)
    confirms: list[asyncio.Future[Any]] = [channel.loop.create_future() for _ in messages]
    closing = channel.closing
    closing.add_done_callback(partial(_fail, confirms))
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for first in range(0, len(messages), WRITE_MESSAGES):
                    part = slice(first, first + WRITE_MESSAGES)
                    await _write(channel, messages[part], ids[part], confirms[part])
                for confirm in confirms:
                    with suppress(Exception):  # the result holds the error
                        await confirm
    finally:
        closing.cancel()
        for id_, confirm in zip(ids, confirms, strict=True):
            channel.message_id_delivery_tag.pop(id_, None)
            confirm.cancel()  # a later confirm is ignored
    return [TimeoutError() if confirm.cancelled() else confirm.exception() for confirm in confirms]


async def _write(
    channel: Channel, messages: Sequence[Message], ids: Sequence[str], confirms: Sequence["asyncio.Future[Any]"]
) -> None:
    """Write messages at once, register these futures for their confirms, and wait until the write has been sent."""
    async with channel.lock:
        drained = channel.create_future()
        frames = [frame for message, id_ in zip(messages, ids, strict=True) for frame in _frames(channel, message, id_)]
        await channel.write_queue.put(ChannelFrame.marshall(channel.number, frames, drained))
        # Nothing is awaited since the put, so the tags match those that the broker counts.
        for id_, confirm in zip(ids, confirms, strict=True):
            channel.delivery_tag += 1
            channel.confirmations[channel.delivery_tag] = confirm
            channel.message_id_delivery_tag[id_] = channel.delivery_tag
        await drained


def _frames(channel: Channel, message: Message, id_: str) -> Iterator[Any]:
    properties = Basic.Properties(
        delivery_mode=PERSISTENT,
        content_type="application/json",
        message_id=id_,
        expiration=None if message.ttl_ms is None else str(message.ttl_ms),
    )
    yield Basic.Publish(exchange=message.exchange, routing_key=message.routing_key, mandatory=True)
    yield ContentHeader(properties=properties, body_size=len(message.body))
    for at in range(0, len(message.body), channel.max_content_size):
        yield ContentBody(message.body[at : at + channel.max_content_size])


def _fail(confirms: Sequence["asyncio.Future[Any]"], closing: "asyncio.Future[Any]") -> None:
    """Fail the unconfirmed messages when the channel closes."""
    reason = None if closing.cancelled() else closing.exception()
    for confirm in confirms:
        if not confirm.done():
            confirm.set_exception(reason if isinstance(reason, Exception) else ConnectionError("the channel is closed"))

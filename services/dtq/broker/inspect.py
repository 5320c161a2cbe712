"""Looking into the broker: how full queues are, and walking the dead letter queue.

Owns reading. Must never take a message away that its caller did not name as spent.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final
from uuid import UUID

import aiormq

from dtq.broker.declare import Channels, message_count
from dtq.broker.link import BROKER_ERRORS, Link
from dtq.domain.envelope import decode
from dtq.domain.errors import Unavailable
from dtq.runtime.loops import own_cancellation

WALK_MAX: Final = 10_000
"""Most dead letters looked at in one walk: each is held unacknowledged meanwhile."""
CHUNK: Final = 200
"""Dead letters asked about at a time."""


async def ready_counts(link: Link, queues: Sequence[str]) -> dict[str, int | None]:
    """Return how many messages of each queue are ready; None where the queue is missing.

    Raises:
        Unavailable: the broker does not answer.
    """
    try:
        with own_cancellation():
            channels = Channels(link.connection())
            try:
                return {queue: await message_count(channels, queue) for queue in queues}
            finally:
                await channels.close()
    except BROKER_ERRORS as error:
        raise Unavailable(f"RabbitMQ does not answer: {type(error).__name__}") from error


async def drop_spent(link: Link, queue: str, spent: Callable[[list[UUID]], Awaitable[set[UUID]]]) -> int:
    """Walk a dead letter queue once and drop the copies whose task is no longer FAILED; return how many.

    Args:
        link: any link to the broker.
        queue: the dead letter queue's name.
        spent: returns which of these ids need no copy any more.

    Raises:
        Unavailable: the broker does not answer; what was not dropped is still there.
    """
    try:
        with own_cancellation():
            channel = await link.connection().channel(publisher_confirms=False)
            try:
                return await _walk(channel, queue, spent)
            finally:
                await channel.close()  # gives back what was not acknowledged, in its old order
    except BROKER_ERRORS as error:
        raise Unavailable(f"RabbitMQ does not answer: {type(error).__name__}") from error


async def _walk(
    channel: "aiormq.abc.AbstractChannel", queue: str, spent: Callable[[list[UUID]], Awaitable[set[UUID]]]
) -> int:
    dropped = looked_at = 0
    while looked_at < WALK_MAX:
        held: list[tuple[int, UUID]] = []
        for _ in range(CHUNK):
            message = await channel.basic_get(queue)
            if message.delivery_tag is None:
                break
            looked_at += 1
            try:
                held.append((message.delivery_tag, decode(message.body).id))
            except ValueError:
                continue  # not ours to judge: it stays
        if not held:
            return dropped
        gone = await spent([id_ for _, id_ in held])
        for tag, id_ in held:
            if id_ in gone:
                await channel.basic_ack(tag)
                dropped += 1
    return dropped

"""Walks a dead letter queue and drops the copies that are no longer needed.

A message that the caller did not name as spent stays in the queue.
"""

from collections.abc import Awaitable, Callable
from typing import Final
from uuid import UUID

import aiormq

from dtq.broker.broker_connection import BrokerConnection, translated
from dtq.domain.envelope import decode

WALK_MAX: Final = 10_000
"""Most dead letters in one walk: each is held unacknowledged meanwhile."""
CHUNK: Final = 200
"""Dead letters asked about at a time."""


async def drop_spent(broker: BrokerConnection, queue: str, spent: Callable[[list[UUID]], Awaitable[set[UUID]]]) -> int:
    """Walk a dead letter queue once and drop the copies whose task is no longer FAILED; return how many.

    Args:
        broker: any connection to the broker.
        queue: the dead letter queue's name.
        spent: returns which of these ids no longer need a copy.

    Raises:
        Unavailable: the broker does not answer; copies that were not dropped are still there.
    """
    with translated():
        channel = await broker.connection().channel(publisher_confirms=False)
        try:
            return await _walk(channel, queue, spent)
        finally:
            await channel.close()  # returns the unacknowledged messages in their old order


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
                continue  # not a dtq message: it stays
        if not held:
            return dropped
        gone = await spent([id_ for _, id_ in held])
        for tag, id_ in held:
            if id_ in gone:
                await channel.basic_ack(tag)
                dropped += 1
    return dropped

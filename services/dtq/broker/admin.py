"""Administration of the broker for `dtq apply` and the operator: inspect, declare, delete.

Connections are short-lived. A queue that holds messages is deleted only if the caller asks for it.
Every call raises `Unavailable` when the broker does not answer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import aiormq
from aiormq.abc import AbstractConnection

from dtq.broker.broker_connection import BROKER_ERRORS, CONNECT_SECONDS, BrokerConnection, connect, hang_up, translated
from dtq.broker.declare import BeforeMaking, Channels, Declared, declare, message_count
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.topology import Topology
from dtq.runtime.loops import foreign_cancellation_as_error


class Admin:
    """One connection to one vhost."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection

    async def ready(self, topology: Topology) -> dict[str, int | None]:
        """Return the number of messages in each queue of a topology; None where a queue is missing."""
        return await self.counts([queue.name for queue in topology.queues])

    async def holding(self, topology: Topology) -> dict[str, int]:
        """Return the number of messages in each existing queue: at least 1 if the queue has any.

        For a quorum queue whose leader is busy for 250 ms, RabbitMQ reports 0 (`rabbit_quorum_queue:stat`, 3.10).
        A 0 is therefore verified by taking a message and giving it back.
        """
        with _translated():
            found = {name: count for name, count in (await self.ready(topology)).items() if count is not None}
            channels = Channels(self._connection)
            for name in [name for name, count in found.items() if not count]:
                channel = await channels.get()
                tag = (await channel.basic_get(name)).delivery_tag
                if tag is not None:
                    await channel.basic_reject(tag, requeue=True)
                    found[name] = 1
            await channels.close()
            return found

    async def counts(self, queues: Sequence[str]) -> dict[str, int | None]:
        """Return the number of messages in each of these queues; None where a queue is missing."""
        with _translated():
            return await _counts(self._connection, queues)

    async def declare(
        self, topology: Topology, lost: set[str] | None = None, *, before_making: BeforeMaking | None = None
    ) -> Declared:
        """Declare a topology; existing queues and exchanges stay unchanged.

        Args:
            topology: the desired topology.
            lost: receives the names of queues that were missing, even if the declaration fails later.
            before_making: called with the names of missing queues before they are declared.

        Raises:
            Rejected: the broker does not permit us to declare.
        """
        with _translated():
            found = Declared(missing=set() if lost is None else lost)
            return await declare(self._connection, topology, found, before_making=before_making)

    async def delete(self, topology: Topology) -> None:
        """Delete a topology: bindings first, so that no message arrives in a queue that is about to be deleted.

        Raises:
            Unavailable: the broker does not answer; asking again is safe.
        """
        with _translated():
            channels = Channels(self._connection)
            for exchange in topology.exchanges:
                await (await channels.get()).exchange_delete(exchange.name)
            for queue in topology.queues:
                await (await channels.get()).queue_delete(queue.name)
            await channels.close()

    async def unbind(self, topology: Topology) -> None:
        """Unbind the queues of a topology from their exchanges, so that they drain.

        Raises:
            Unavailable: the broker does not answer; asking again is safe.
        """
        with _translated():
            channels = Channels(self._connection)
            for binding in topology.bindings:
                await (await channels.get()).queue_unbind(
                    binding.queue, binding.exchange, routing_key=binding.routing_key
                )
            await channels.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Admin]:
    """Open a short-lived connection."""
    with _translated():
        async with asyncio.timeout(CONNECT_SECONDS):
            connection = await connect(url, "admin")
    try:
        yield Admin(connection)
    finally:
        await hang_up(connection)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        with foreign_cancellation_as_error():
            yield
    except aiormq.exceptions.ChannelAccessRefused as error:
        raise Rejected("AccessRefused", f"RabbitMQ refuses access: {error}; grant it to dtq's user") from error
    except BROKER_ERRORS as error:
        raise Unavailable(f"RabbitMQ does not answer: {type(error).__name__}: {error}"[:300]) from error


async def ready_counts(broker: BrokerConnection, queues: Sequence[str]) -> dict[str, int | None]:
    """Return how many messages of each queue are ready; None where the queue is missing."""
    with translated():
        return await _counts(broker.connection(), queues)


async def _counts(connection: AbstractConnection, queues: Sequence[str]) -> dict[str, int | None]:
    channels = Channels(connection)
    try:
        return {queue: await message_count(channels, queue) for queue in queues}
    finally:
        await channels.close()

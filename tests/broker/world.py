"""What the broker tests share: a broker, the supervised parts on it, and a connection of its own to look at both."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import aiormq
from aiormq.abc import AbstractConnection
from prometheus_client import CollectorRegistry

from dtq.broker.admin import connected
from dtq.broker.broker_connection import BrokerConnection
from dtq.broker.consumer import Consumer, Delivery, Subscription
from dtq.broker.publish_window import Message
from dtq.broker.publisher import Publisher
from dtq.broker.topology_declarer import TopologyDeclarer
from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.topology import Topology, main_exchange, topology_of, work_queue
from dtq.runtime.metrics import BrokerMetrics
from hack.stack.management import Management
from tests.support.waiting import READY_SECONDS, eventually


def spec_of(**values: Any) -> QueueSetSpec:
    """Return a queue set; by default it has two queues and one retry delay."""
    return QueueSetSpec.model_validate(
        {"queues": [{"name": "high"}, {"name": "default"}], "retry": {"delaysSeconds": [1]}} | values
    )


@dataclass(kw_only=True)
class World:
    """One virtual host of one broker, and what runs on it."""

    url: str
    vhost: str
    management: Management
    queue_sets: dict[str, QueueSetSpec] = field(default_factory=lambda: {"default": spec_of()})
    lost: list[tuple[str, str]] = field(default_factory=list)
    dead_letters_lost: list[str] = field(default_factory=list)
    is_away: bool = False
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    def __post_init__(self) -> None:
        self.metrics = BrokerMetrics(self.registry)
        self.declarer = TopologyDeclarer(
            lambda: self.url,
            queue_sets=self.queue_sets,
            on_lost=self._on_lost,
            on_dead_letters_lost=self._on_dead_letters_lost,
            metrics=self.metrics,
        )

    @property
    def spec(self) -> QueueSetSpec:
        """The queue set `default`."""
        return self.queue_sets["default"]

    @spec.setter
    def spec(self, spec: QueueSetSpec) -> None:
        self.queue_sets["default"] = spec

    @property
    def topology(self) -> Topology:
        """What the queue set declares."""
        return topology_of(self.spec)

    def publisher(self, timeout_seconds: float = 5.0) -> Publisher:
        """A publisher that declares the queue set."""
        return Publisher(
            self.url,
            declare=self.declarer.declare,
            refusal=self.declarer.refusal,
            metrics=self.metrics,
            timeout_seconds=timeout_seconds,
        )

    def consumer(self, *queues: str, prefetch: int = 32) -> Consumer:
        """A consumer of these queues, or of all, that declares the queue set."""
        names = queues or tuple(queue.name for queue in self.spec.queues)
        return Consumer(
            self.url,
            subscriptions=self.subscriptions(*names, prefetch=prefetch),
            window=prefetch,
            declare=self.declarer.declare,
            metrics=self.metrics,
        )

    def subscriptions(self, *queues: str, prefetch: int = 32) -> list[Subscription]:
        """What a consumer of these queues subscribes to."""
        return [
            Subscription(queue=name, name=work_queue(self.spec.namespace, name), prefetch=prefetch) for name in queues
        ]

    def message(self, body: str = "x", queue: str = "default", **values: Any) -> Message:
        """A message for a queue."""
        exchange = main_exchange(self.spec.namespace)
        return Message(**({"exchange": exchange, "routing_key": queue, "body": body.encode()} | values))

    async def queues(self) -> dict[str, Any]:
        """The queues of the virtual host, by name, as the management interface lists them."""
        found = await self.management_call("GET", f"/api/queues/{quote(self.vhost, safe='')}")
        return {queue["name"]: queue for queue in found}

    async def becomes_ready(self, name: str, count: int) -> None:
        """Wait until a queue has this many ready messages: RabbitMQ counts returned messages late, and 0 when busy."""
        async with connected(self.url) as admin:

            async def so() -> bool:
                return await admin.counts([name]) == {name: count}

            await eventually(so, f"{name} holds {count} messages")

    async def delete_queue(self, name: str) -> None:
        """Delete a queue by hand, with all that is in it."""
        await self.management_call("DELETE", f"/api/queues/{quote(self.vhost, safe='')}/{name}")

    async def delete_exchange(self, name: str) -> None:
        """Delete an exchange by hand."""
        await self.management_call("DELETE", f"/api/exchanges/{quote(self.vhost, safe='')}/{name}")

    async def unbind(self, exchange: str, queue: str, key: str) -> None:
        """Delete a binding by hand."""
        await self.management_call("DELETE", f"/api/bindings/{quote(self.vhost, safe='')}/e/{exchange}/q/{queue}/{key}")

    async def connections(self) -> list[str]:
        """Return the names that the clients gave their connections."""
        found = await self.management_call("GET", f"/api/vhosts/{quote(self.vhost, safe='')}/connections")
        return [str(connection.get("user_provided_name", "")) for connection in found]

    def count(self, name: str, **labels: str) -> float:
        """A metric's value."""
        return self.registry.get_sample_value(name, labels) or 0.0

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[AbstractConnection]:
        """Yield a plain connection of the driver."""
        connection = await aiormq.connect(self.url)
        try:
            yield connection
        finally:
            await connection.close()

    async def _on_lost(self, queue_set: str, queue: str) -> None:
        if self.is_away:
            raise Unavailable("there is nobody to tell")
        self.lost.append((queue_set, queue))

    async def _on_dead_letters_lost(self, queue_set: str) -> None:
        self.dead_letters_lost.append(queue_set)

    async def permit(self, *, configure: str = ".*", read: str = ".*") -> None:
        """Change what our user may declare and consume."""
        rights = {"configure": configure, "write": ".*", "read": read}
        path = f"/api/permissions/{quote(self.vhost, safe='')}/{quote(self.management.user, safe='')}"
        await self.management_call("PUT", path, rights)

    @asynccontextmanager
    async def limited(self, queue: str, length: int) -> AsyncIterator[None]:
        """Limit the length of a queue until the block ends, by a policy as administrators use it."""
        path = f"/api/policies/{quote(self.vhost, safe='')}/limited"
        definition = {"max-length": length, "overflow": "reject-publish"}
        pattern = f"^{re.escape(queue)}$"
        await self.management_call("PUT", path, {"pattern": pattern, "definition": definition, "apply-to": "queues"})
        try:
            yield
        finally:
            await self.management_call("DELETE", path)

    async def management_call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the management interface."""
        return await asyncio.to_thread(self.management.call, method, path, body)


@asynccontextmanager
async def running(*links: BrokerConnection) -> AsyncIterator[None]:
    """Run links until the block ends; they are up when it begins."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for link in links:
            tasks.create_task(link.run(stop))
        try:
            for link in links:
                await up(link)
            yield
        finally:
            stop.set()


async def up(link: BrokerConnection, seconds: float = READY_SECONDS) -> None:
    """Wait until a link is up."""
    async with asyncio.timeout(seconds):
        await link.up.wait()


async def take(consumer: Consumer, count: int, seconds: float = 10.0) -> list[Delivery]:
    """Take `count` deliveries, or fewer after the time."""
    taken: list[Delivery] = []
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while len(taken) < count and loop.time() < until:
        taken += await consumer.take(count - len(taken), 0.2)
    return taken


def bodies(deliveries: list[Delivery]) -> list[str]:
    """Return the bodies of deliveries."""
    return [delivery.body.decode() for delivery in deliveries]

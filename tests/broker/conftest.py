"""Owns the fixtures of the broker suite."""

from collections.abc import Awaitable, Callable

import pytest
import pytest_asyncio

from hack.stack.rabbitmq import RabbitMQ
from tests.broker.world import World
from tests.support.addresses import BrokerVhost


@pytest.fixture
def world(broker_vhost: BrokerVhost) -> World:
    """A virtual host of the shared broker."""
    return World(url=broker_vhost.url, vhost=broker_vhost.vhost, management=broker_vhost.management)


@pytest_asyncio.fixture(loop_scope="session")
async def broker(own_rabbitmq: Callable[[], Awaitable[RabbitMQ]]) -> RabbitMQ:
    """A broker that the test may break."""
    return await own_rabbitmq()


@pytest.fixture
def own_world(broker: RabbitMQ) -> World:
    """The broker that the test may break, as a world."""
    return World(url=broker.url(), vhost="/", management=broker.management)

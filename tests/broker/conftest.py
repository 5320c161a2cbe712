"""Fixtures of the broker suite."""

import asyncio
import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from hack.stack.rabbitmq import RabbitMQ
from tests.broker.world import World
from tests.support.addresses import BrokerVhost
from tests.support.services import Services


@pytest.fixture
def world(broker_vhost: BrokerVhost) -> World:
    """A virtual host of the shared broker."""
    return World(url=broker_vhost.url, vhost=broker_vhost.vhost, management=broker_vhost.management)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def broker(services: Services) -> AsyncIterator[RabbitMQ]:
    """A broker that tests break, one after the other; each leaves it running."""
    server = await asyncio.to_thread(services.new_rabbitmq)
    yield server
    await asyncio.to_thread(server.destroy)


@pytest_asyncio.fixture(loop_scope="session")
async def own_world(broker: RabbitMQ) -> World:
    """A virtual host of the broker that the test may break."""
    vhost = f"test-{secrets.token_hex(8)}"
    await asyncio.to_thread(broker.management.create_vhost, vhost)
    return World(url=broker.url(vhost), vhost=vhost, management=broker.management)

"""Owns the fixtures of the worker suite."""

import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import create_database, drop_database
from tests.worker.world import Running, World, open_world

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _children_find_the_handlers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        yield


@pytest_asyncio.fixture(loop_scope="session")
async def world(dsn: str, broker_vhost: BrokerVhost) -> AsyncIterator[World]:
    """A world of the test's own, without a worker yet."""
    async with open_world(dsn, broker_vhost) as world:
        yield world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(
    postgres_server: PostgresService, template_database: str, rabbitmq_server: RabbitMQService
) -> AsyncIterator[tuple[World, Running]]:
    """One world and one worker for the tables: whatever a line does, the next one meets the same worker."""
    name = f"dtq_{secrets.token_hex(8)}"
    await create_database(postgres_server, name, template=template_database)
    rabbitmq_server.management.create_vhost(name)
    vhost = BrokerVhost(
        host=rabbitmq_server.host,
        port=rabbitmq_server.port,
        user=rabbitmq_server.user,
        password=rabbitmq_server.password,
        vhost=name,
        management=rabbitmq_server.management,
    )
    async with open_world(postgres_server.dsn(name), vhost) as world:
        await world.declare(timeout_seconds=20)
        async with world.worker() as running:
            yield world, running
    rabbitmq_server.management.delete_vhost(name)
    await drop_database(postgres_server, name)

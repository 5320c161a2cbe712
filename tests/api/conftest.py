"""Fixtures of the API's suite."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.world import Running, declare, running
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.support.system import opened
from tests.support.waiting import LONG_SECONDS


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def shared_services(
    postgres_server: PostgresService, rabbitmq_server: RabbitMQService, template_database: str
) -> AsyncIterator[tuple[str, BrokerVhost]]:
    """A database and a virtual host for the tests of this process that look at their own tasks only."""
    async with fresh_database(postgres_server, template=template_database) as dsn:
        with rabbitmq_server.fresh_vhost() as broker:
            await declare(dsn)
            yield dsn, broker


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def api(shared_services: tuple[str, BrokerVhost]) -> AsyncIterator[Running]:
    """An API that the tests of this process share: none of them may break its services."""
    async with running(*shared_services) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def declared_dsn(dsn: str) -> str:
    """A fresh database in which the sample types are declared."""
    await declare(dsn)
    return dsn


@pytest_asyncio.fixture(loop_scope="session")
async def fresh_api(declared_dsn: str, broker_vhost: BrokerVhost) -> AsyncIterator[Running]:
    """An API on a database and a virtual host of its own."""
    async with running(declared_dsn, broker_vhost) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session")
async def replica(declared_dsn: str, broker_vhost: BrokerVhost) -> AsyncIterator[Running]:
    """A second API beside `fresh_api`, as another pod would be."""
    async with running(declared_dsn, broker_vhost) as one:
        yield one


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def live(
    shared_services: tuple[str, BrokerVhost], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of `dtq api` as it is run in production, serving the sample types."""
    with opened(tmp_path_factory.mktemp("live"), *shared_services) as system:
        process = system.api()
        await process.ready("/healthz", seconds=LONG_SECONDS)
        yield f"http://{process.address}"
        assert process.popen.poll() is None, process.tail()
        assert "request crashed" not in process.log.read_text()

"""Fixtures that every suite shares. A server is started only when a test asks for it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
import structlog

from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.support.services import Services

SERVICES = pytest.StashKey[Services]()
FOLDER_KEY = "dtq_services_folder"

# A busy machine may stop any example for longer than Hypothesis allows; our own bound is pytest's timeout.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("dtq", hypothesis.settings(), deadline=None, suppress_health_check=SLOW)
hypothesis.settings.load_profile("dtq")


def pytest_configure(config: pytest.Config) -> None:
    # A process of pytest-xdist shares the servers of the process that started it.
    given = getattr(config, "workerinput", None)
    config.stash[SERVICES] = Services(Path(given[FOLDER_KEY])) if given else Services.create()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[FOLDER_KEY] = str(node.config.stash[SERVICES].folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    # Runs after a failure and after Ctrl-C too; a guard process does it when this one is killed.
    if not hasattr(config, "workerinput") and SERVICES in config.stash:
        config.stash[SERVICES].remove()


@pytest.fixture
def unconfigured_logs() -> Iterator[None]:
    """Log with structlog's defaults, at every level, whatever an earlier test of this process has configured."""
    before = structlog.get_config()
    structlog.reset_defaults()
    yield
    structlog.configure(**before)


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    return pytestconfig.stash[SERVICES]


@pytest.fixture(scope="session")
def postgres_server(services: Services) -> PostgresService:
    """The Postgres that the session shares; to break one, ask for own_postgres."""
    return services.postgres()


@pytest.fixture(scope="session")
def rabbitmq_server(services: Services) -> RabbitMQService:
    """The RabbitMQ that the session shares; to break one, ask for own_rabbitmq."""
    return services.rabbitmq()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def template_database(services: Services) -> str:
    """The name of a migrated database to clone."""
    from dtq_db.migrations import migrate  # noqa: PLC0415 - only the tests that need a schema need the module

    return await services.template(migrate)


@pytest_asyncio.fixture(loop_scope="session")
async def dsn(postgres_server: PostgresService, template_database: str) -> AsyncIterator[str]:
    """The URL of a fresh database with the whole schema, dropped afterwards."""
    async with fresh_database(postgres_server, template=template_database) as dsn:
        yield dsn


@pytest_asyncio.fixture(loop_scope="session")
async def empty_dsn(postgres_server: PostgresService) -> AsyncIterator[str]:
    """The URL of a fresh database without any schema, dropped afterwards."""
    async with fresh_database(postgres_server) as dsn:
        yield dsn


@pytest.fixture
def broker_vhost(rabbitmq_server: RabbitMQService) -> Iterator[BrokerVhost]:
    """A fresh virtual host, deleted afterwards with all that is in it."""
    with rabbitmq_server.fresh_vhost() as vhost:
        yield vhost


@pytest_asyncio.fixture(loop_scope="session")
async def own_postgres(services: Services) -> AsyncIterator[Callable[[], Awaitable[Postgres]]]:
    """A factory of servers that the test may stop, kill, pause and restart; the calls block: use a thread."""
    servers: list[Postgres] = []

    async def make() -> Postgres:
        servers.append(await asyncio.to_thread(services.new_postgres))
        return servers[-1]

    yield make
    for server in servers:
        await asyncio.to_thread(server.destroy)


@pytest_asyncio.fixture(loop_scope="session")
async def own_rabbitmq(services: Services) -> AsyncIterator[Callable[[], Awaitable[RabbitMQ]]]:
    """A factory of brokers that the test may stop, kill, pause and restart; the calls block: use a thread."""
    servers: list[RabbitMQ] = []

    async def make() -> RabbitMQ:
        servers.append(await asyncio.to_thread(services.new_rabbitmq))
        return servers[-1]

    yield make
    for server in servers:
        await asyncio.to_thread(server.destroy)

"""Owns the fixtures that every suite shares. It must never start a server that no test asks for."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import create_database, drop_database
from tests.support.services import Services

SERVICES = pytest.StashKey[Services]()
FOLDER_KEY = "dtq_services_folder"


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
    name = f"dtq_{secrets.token_hex(8)}"
    await create_database(postgres_server, name, template=template_database)
    yield postgres_server.dsn(name)
    await drop_database(postgres_server, name)


@pytest_asyncio.fixture(loop_scope="session")
async def empty_dsn(postgres_server: PostgresService) -> AsyncIterator[str]:
    """The URL of a fresh database without any schema, dropped afterwards."""
    name = f"dtq_{secrets.token_hex(8)}"
    await create_database(postgres_server, name)
    yield postgres_server.dsn(name)
    await drop_database(postgres_server, name)


@pytest.fixture
def broker_vhost(rabbitmq_server: RabbitMQService) -> Iterator[BrokerVhost]:
    """A fresh virtual host, deleted afterwards with all that is in it."""
    name = f"test-{secrets.token_hex(8)}"
    rabbitmq_server.management.create_vhost(name)
    yield BrokerVhost(
        host=rabbitmq_server.host,
        port=rabbitmq_server.port,
        user=rabbitmq_server.user,
        password=rabbitmq_server.password,
        vhost=name,
        management=rabbitmq_server.management,
    )
    rabbitmq_server.management.delete_vhost(name)


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

"""Fixtures of the worker suite."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from dtq_db import attempts
from dtq_worker import lease
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.worker.world import Running, World, open_world

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True, scope="session")
def _children_find_the_handlers() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        yield


@pytest.fixture
def short_lease(monkeypatch: pytest.MonkeyPatch) -> float:
    """Leases of 3 s, renewed every 0.3 s; the margin stays a fifth."""
    monkeypatch.setattr(attempts, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 3.0)
    monkeypatch.setattr(lease, "LEASE_RENEW_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_MARGIN_SECONDS", 0.6)
    return 3.0


@pytest_asyncio.fixture(loop_scope="session")
async def world(dsn: str, broker_vhost: BrokerVhost) -> AsyncIterator[World]:
    """A world of the test's own, without a worker yet."""
    async with open_world(dsn, broker_vhost) as world:
        yield world


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared(
    postgres_server: PostgresService, rabbitmq_server: RabbitMQService, template_database: str
) -> AsyncIterator[tuple[World, Running]]:
    """One world and one worker for the tables of cases, which all run on the same worker."""
    async with fresh_database(postgres_server, template=template_database) as dsn:
        with rabbitmq_server.fresh_vhost() as vhost:
            async with open_world(dsn, vhost) as world:
                await world.declare(timeout_seconds=20)
                async with world.worker() as running:
                    yield world, running

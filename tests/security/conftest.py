"""Fixtures of the security suite: an API with its own services, and one that authenticates its callers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.api.world import Running, declare, running
from tests.auth.world import Callers
from tests.support.addresses import BrokerVhost


@pytest_asyncio.fixture(loop_scope="session")
async def declared_dsn(dsn: str) -> str:
    """A fresh database in which the sample types are declared."""
    await declare(dsn)
    return dsn


@pytest_asyncio.fixture(loop_scope="session")
async def api(declared_dsn: str, broker_vhost: BrokerVhost) -> AsyncIterator[Running]:
    """An API on a database and a virtual host of its own."""
    async with running(declared_dsn, broker_vhost) as api:
        yield api


@pytest_asyncio.fixture(loop_scope="session")
async def authenticating(declared_dsn: str, broker_vhost: BrokerVhost, tmp_path: Path) -> AsyncIterator[Running]:
    """An API behind a token file and a policy file."""
    async with running(declared_dsn, broker_vhost, up=True, **Callers.create(tmp_path).environ) as api:
        yield api

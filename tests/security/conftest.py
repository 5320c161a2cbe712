"""Fixtures of the security suite: an API with its own services, and one that authenticates its callers."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.api.conftest import declared_dsn, fresh_api
from tests.api.world import Running, running
from tests.auth.world import Callers
from tests.support.addresses import BrokerVhost

__all__ = ["declared_dsn", "fresh_api"]


@pytest_asyncio.fixture(loop_scope="session")
async def authenticating(declared_dsn: str, broker_vhost: BrokerVhost, tmp_path: Path) -> AsyncIterator[Running]:
    """An API behind a token file and a policy file."""
    async with running(declared_dsn, broker_vhost, up=True, **Callers.create(tmp_path).environ) as api:
        yield api

"""Fixtures of the auth suite: an API with authentication, on real services, and its callers."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.api.conftest import shared_services
from tests.api.world import running
from tests.auth.world import Callers, Guarded
from tests.support.addresses import BrokerVhost

__all__ = ["shared_services"]


@pytest_asyncio.fixture(loop_scope="session", scope="session")
async def guarded(
    tmp_path_factory: pytest.TempPathFactory, shared_services: tuple[str, BrokerVhost]
) -> AsyncIterator[Guarded]:
    """An API behind a token file and a policy file, which the tests of this process share."""
    callers = Callers.create(tmp_path_factory.mktemp("callers"))
    async with running(shared_services[0], shared_services[1], up=True, **callers.environ) as api:
        yield Guarded(api=api, callers=callers)

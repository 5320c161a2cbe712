"""Owns the fixtures of the API's suite."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.api.world import Running, declare, free_port, running
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.databases import fresh_database

READY_SECONDS: Final = 60.0


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


@pytest.fixture(scope="session")
def live(shared_services: tuple[str, BrokerVhost], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `dtq api` as it is run in production, serving the sample types."""
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path_factory.mktemp("live") / "api.log"
    dsn, broker = shared_services
    environ = dict(os.environ) | broker.environ(dsn, HTTP_PORT=address)
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "dtq_cli", "api"], env=environ, stdout=out, stderr=out)
        try:
            _wait(f"http://{address}/healthz", process, log)
            yield f"http://{address}"
            assert process.poll() is None, log.read_text()[-2000:]
            assert "request crashed" not in log.read_text()
        finally:
            process.terminate()
            process.wait(30)


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    until = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < until, log.read_text()[-2000:]

"""Fixtures of the skew suite: this version's processes on a database as the next version's migration leaves it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
import pytest_asyncio

from tests.skew import next_version
from tests.skew.scenario import live
from tests.support.addresses import PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.support.system import Process, System, opened


@dataclass(kw_only=True)
class Skewed:
    """Processes of this version, and a connection through which the next version writes."""

    system: System
    api: Process
    worker: Process
    sql: "asyncpg.Connection[asyncpg.Record]"


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def skewed(
    postgres_server: PostgresService,
    rabbitmq_server: RabbitMQService,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Skewed]:
    """An API and a worker that have run on the next version's schema; each test restores what it changes."""
    folder = tmp_path_factory.mktemp("skew")
    async with fresh_database(postgres_server, template=template_database) as dsn:
        with (
            rabbitmq_server.fresh_vhost() as vhost,
            opened(folder, dsn, vhost) as system,
        ):
            sql = await asyncpg.connect(dsn)
            try:
                await next_version.migrate(sql)
                api, worker = await live(system)
                yield Skewed(system=system, api=api, worker=worker, sql=sql)
            finally:
                sql.terminate()

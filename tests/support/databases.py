"""Creates and drops the databases of tests, and touches no other."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from tests.support.addresses import PostgresService

EMPTY: Final = "template0"


async def run_sql(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own, on a connection of its own."""
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


async def create_database(server: PostgresService, name: str, *, template: str = EMPTY) -> None:
    """Make a database that the tests' role owns."""
    await run_sql(server.admin_dsn, f'CREATE DATABASE "{name}" OWNER "{server.owner}" TEMPLATE "{template}"')


async def drop_database(server: PostgresService, name: str) -> None:
    """Drop a database and end its connections."""
    await run_sql(server.admin_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@asynccontextmanager
async def fresh_database(server: PostgresService, *, template: str = EMPTY) -> AsyncIterator[str]:
    """Create a database, yield its URL, and drop it when the block ends."""
    name = f"dtq_{secrets.token_hex(8)}"
    await create_database(server, name, template=template)
    try:
        yield server.dsn(name)
    finally:
        await drop_database(server, name)

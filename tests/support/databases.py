"""Owns making and dropping the databases of tests. It must never touch one that no test made."""

import asyncio

import asyncpg

from tests.support.addresses import PostgresService


async def run_sql(dsn: str, *statements: str) -> None:
    """Run statements, each in a transaction of its own, on a connection of its own."""
    async with asyncio.timeout(30):
        connection = await asyncpg.connect(dsn)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


async def create_database(server: PostgresService, name: str, *, template: str = "template0") -> None:
    """Make a database that the tests' role owns."""
    await run_sql(server.admin_dsn, f'CREATE DATABASE "{name}" OWNER "{server.owner}" TEMPLATE "{template}"')


async def drop_database(server: PostgresService, name: str) -> None:
    """Drop a database, cutting whoever is still connected."""
    await run_sql(server.admin_dsn, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

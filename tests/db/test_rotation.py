"""A rotated password is used at the next connection: no restart, and no error that would cause one."""

import secrets
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from dtq.domain.errors import Unavailable
from dtq.runtime.environment import load
from dtq.runtime.settings import AllSettings
from dtq_db.connections import Database
from tests.support.addresses import PostgresService
from tests.support.databases import run_sql


def _as(dsn: str, user: str, password: str) -> str:
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


async def test_a_rotated_password_is_read_again_by_pool_and_dedicated_connections(
    dsn: str, postgres_server: PostgresService, tmp_path: Path
) -> None:
    user = f"dtq_rotated_{secrets.token_hex(4)}"
    file = tmp_path / "dsn"
    file.write_text(_as(dsn, user, "old") + "\n")
    settings = load({"DB_DSN_FILE": str(file), "RMQ_USER": "x", "RMQ_PASS": "x", "RMQ_HOST": "x"}, AllSettings)
    await run_sql(postgres_server.admin_dsn, f"CREATE ROLE {user} LOGIN PASSWORD 'old'")
    try:
        async with Database(lambda: settings.dsn, name="test") as database:
            dedicated = database.dedicated("test")
            assert await database.fetch("SELECT 1")
            assert await dedicated.fetch("SELECT 1")
            # The password changes, the connections are cut, and the Secret follows later.
            await run_sql(postgres_server.admin_dsn, f"ALTER ROLE {user} PASSWORD 'new'")
            await _cut(postgres_server, user)
            for who in (database, dedicated):
                with pytest.raises(Unavailable):
                    await who.fetch("SELECT 1")
                with pytest.raises(Unavailable, match="password authentication failed"):
                    await who.fetch("SELECT 1")
            file.write_text(_as(dsn, user, "new") + "\n")
            assert await database.fetch("SELECT 1")
            assert await dedicated.fetch("SELECT 1")
    finally:
        await _cut(postgres_server, user)
        await run_sql(postgres_server.admin_dsn, f"DROP ROLE {user}")


async def _cut(server: PostgresService, user: str) -> None:
    connection = await asyncpg.connect(server.admin_dsn)
    await connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = $1", user)
    await connection.close()

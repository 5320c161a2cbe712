"""The database roles for tests: an administrator creates them, and each process gets a login user that has one."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from dtq_db.migrations import roles_script
from tests.support.addresses import PostgresService
from tests.support.databases import run_sql


def as_administrator(server: PostgresService, dsn: str) -> str:
    """Return the URL of a database, as the server's administrator."""
    return urlunsplit(urlsplit(server.admin_dsn)._replace(path=urlsplit(dsn).path))


def as_user(dsn: str, user: str, password: str) -> str:
    """Return the URL of a database, as another user."""
    parts = urlsplit(dsn)
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{parts.netloc.rpartition('@')[2]}"))


async def create_roles(server: PostgresService, dsn: str) -> None:
    """Run what `dtq migrate --roles --print` prints, as the administrator."""
    await run_sql(as_administrator(server, dsn), await roles_script(dsn))


@asynccontextmanager
async def login_user(server: PostgresService, *options: str) -> AsyncIterator[tuple[str, str]]:
    """Create a login user; yield name and password; drop the user when the block ends.

    Args:
        options: of CREATE ROLE, such as `IN ROLE dtq_worker`.
    """
    name, password = f"dtq_test_{secrets.token_hex(4)}", secrets.token_hex(8)
    await run_sql(server.admin_dsn, f"CREATE ROLE {name} LOGIN PASSWORD '{password}' {' '.join(options)}")
    try:
        yield name, password
    finally:
        await run_sql(server.admin_dsn, f"DROP ROLE {name}")

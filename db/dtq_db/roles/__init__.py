"""The database roles: who owns the schema, and what each process may do. The SQL is in `roles.sql` and `grants.sql`.

Never creates a login user: people grant the roles to users of their own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Final

import asyncpg

from dtq.domain.errors import Rejected

OWNER: Final = "dtq_owner"
TABLES: Final = (
    "catalog_revision",
    "dtq_migration",
    "prune_slice",
    "queue",
    "queue_set",
    "resource_claim",
    "schedule",
    "task_events",
    "task_type",
    "task_type_deletion",
    "tasks",
    "type_limit",
    "worker_claims",
    "workers",
)
"""Every table, so that a schema shared with other software keeps the owners and grants of the others."""
_HEAD: Final = """\
-- Run this in the database of dtq after `dtq migrate`, as an administrator, for example with psql -f.
BEGIN;
"""
_NAMES: Final = """
SELECT quote_ident(current_schema()) AS schema, quote_literal(quote_ident(current_schema())) AS schema_text,
    quote_ident(current_user) AS user, quote_literal(current_user) AS user_text
"""
_LEDGER_OWNER: Final = """
SELECT pg_get_userbyid(relowner) AS name, quote_ident(pg_get_userbyid(relowner)) AS quoted,
    relowner = current_user::regrole AS is_user
FROM pg_class WHERE oid = to_regclass('dtq_migration')
"""

Connection = asyncpg.Connection


async def create(connection: "Connection[asyncpg.Record]") -> None:
    """Create the missing roles, make the owner the owner of everything, and give each role exactly its grants.

    Raises:
        Rejected: `RolesRefused`: the user may not do that.
    """
    with _refusals_explained("create the roles: have an administrator run what `dtq migrate --roles --print` prints"):
        await connection.execute(await _text(connection, "roles", "grants"))


async def grant(connection: "Connection[asyncpg.Record]") -> None:
    """Give each role exactly its grants; the session must act as the owner."""
    await connection.execute(await _text(connection, "grants"))


async def script(connection: "Connection[asyncpg.Record]") -> str:
    """Return what `create` runs, as a script that runs in one transaction."""
    return f"{_HEAD}{await _text(connection, 'roles', 'grants')}COMMIT;\n"


async def are_in_use(connection: "Connection[asyncpg.Record]") -> bool:
    """Return whether the schema belongs to the owner role."""
    owner = await connection.fetchrow(_LEDGER_OWNER)
    return owner is not None and owner["name"] == OWNER


async def become_owner(connection: "Connection[asyncpg.Record]") -> None:
    """Act as the owner of the schema from now on, so that new objects belong to the owner too.

    Raises:
        Rejected: `RolesRefused`: the user is not a member of the owner.
    """
    owner = await connection.fetchrow(_LEDGER_OWNER)
    if owner is None or owner["is_user"]:
        return
    with _refusals_explained(f"migrate: an administrator must GRANT {owner['quoted']} to it"):
        await connection.execute(f"SET ROLE {owner['quoted']}")


async def _text(connection: "Connection[asyncpg.Record]", *names: str) -> str:
    """Return files of SQL, with the names of this database's schema and user, that run in one transaction."""
    found = await connection.fetchrow(_NAMES)
    assert found is not None
    text = "SET LOCAL search_path = {schema}, pg_temp;\n"
    text += "".join((files("dtq_db") / "roles" / f"{name}.sql").read_text(encoding="utf-8") for name in names)
    for word, value in {**dict(found), "tables": ", ".join(TABLES)}.items():
        text = text.replace(f"{{{word}}}", value)
    return text


@contextmanager
def _refusals_explained(what: str) -> Iterator[None]:
    try:
        yield
    except asyncpg.InsufficientPrivilegeError as error:
        raise Rejected("RolesRefused", f"the user of DB_DSN may not {what} (Postgres says: {error})") from error

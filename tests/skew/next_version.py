"""The simulated next version: the schema change of its migration, and the rows that it writes.

It removes nothing: a migration that does is a `post` migration, and runs after the last older process has ended.
"""

import json
from typing import Any, Final

import asyncpg

Connection = asyncpg.Connection
MIGRATION: Final = "9999_pre_next_version.sql"

_TABLES: Final = """
SELECT c.oid::regclass::text AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
# A CHECK that lists words must allow the next version's words as well, so the next version drops it.
_WORD_CHECKS: Final = """
SELECT conrelid::regclass::text AS table_name, conname AS name FROM pg_constraint
WHERE contype = 'c' AND coninhcount = 0 AND connamespace = 'public'::regnamespace
    AND pg_get_constraintdef(oid) LIKE '%ANY (ARRAY[%::text%'
"""
_FUNCTIONS: Final = """
SELECT p.proname AS name, p.oid::regprocedure::text AS signature, p.pronargs AS count,
    pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
FROM pg_proc p
WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f' AND p.prorettype <> 'trigger'::regtype
    AND p.proname LIKE 'dtq\\_%'
"""


async def migrate(sql: "Connection[asyncpg.Record]") -> None:
    """Do what the next version's `pre` migration may do: more columns, words, tables and parameters with a default."""
    for table in await sql.fetch(_TABLES):
        await sql.execute(f"ALTER TABLE {table['name']} ADD next_note text, ADD next_rank integer NOT NULL DEFAULT 0")
    for check in await sql.fetch(_WORD_CHECKS):
        await sql.execute(f'ALTER TABLE {check["table_name"]} DROP CONSTRAINT "{check["name"]}"')
    for function in await sql.fetch(_FUNCTIONS):
        # Beside the old one the new one would be ambiguous: Postgres then refuses every call.
        await sql.execute(f"ALTER FUNCTION {function['signature']} RENAME TO {function['name']}_before")
        passed = ", ".join(f"${number}" for number in range(1, function["count"] + 1))
        arguments = ", ".join(filter(None, [function["arguments"], "p_next text DEFAULT NULL"]))
        await sql.execute(
            f"CREATE FUNCTION {function['name']}({arguments}) RETURNS {function['result']} LANGUAGE sql"
            f" AS $next$ SELECT * FROM {function['name']}_before({passed}) $next$"
        )
    await sql.execute("CREATE TABLE worker_pool (name text PRIMARY KEY, spec jsonb NOT NULL)")
    await sql.execute("INSERT INTO worker_pool VALUES ('default', '{}')")
    await sql.execute("INSERT INTO dtq_migration (name, checksum) VALUES ($1, 'of the next version')", MIGRATION)


async def claim_unknown_kind(sql: "Connection[asyncpg.Record]") -> None:
    """Claim a name of a kind that only the next version knows."""
    await sql.execute(
        "INSERT INTO resource_claim (kind, key, owner_uid, owner_namespace, owner_name)"
        " VALUES ('WorkerPool', 'default', 'next', 'apps', 'default')"
    )


async def extend_rows(sql: "Connection[asyncpg.Record]") -> None:
    """Add keys to every JSON column that the next version may extend; what this version reads stays as it is."""
    more = json.dumps({"nextKey": {"deep": [1]}})
    await sql.execute(
        "UPDATE task_type SET backoff = backoff || $1::text::jsonb, concurrency = concurrency || $1::text::jsonb,"
        " rate_limit = rate_limit || $1::text::jsonb",
        more,
    )
    await sql.execute("UPDATE queue SET scaling = scaling || $1::text::jsonb", more)


async def change_type(sql: "Connection[asyncpg.Record]", type_: str, column: str, value: Any) -> None:
    """Write a column of a task type, JSON or text, as the next version would."""
    cast = "::text::jsonb" if column in ("backoff", "concurrency", "rate_limit", "payload_schema") else ""
    stored = json.dumps(value) if cast and value is not None else value
    await sql.execute(f"UPDATE task_type SET {column} = $2{cast} WHERE type = $1", type_, stored)

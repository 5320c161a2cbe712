"""The database roles: what each may do, compared with the catalogue, so that every new object needs a decision."""

import secrets
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg
import pytest
import pytest_asyncio

from dtq.domain.errors import Rejected, Unmigrated
from dtq_db import migrations, roles
from dtq_db.connections import Database
from dtq_db.migrations import Migration, migrate
from dtq_db.queries import query
from tests.db.world import Connection
from tests.support.addresses import PostgresService
from tests.support.databases import drop_database, run_sql
from tests.support.roles import as_administrator, as_user, create_roles, login_user

API, WORKER, OPERATOR, READONLY = RUNTIME = ("dtq_api", "dtq_worker", "dtq_operator", "dtq_readonly")
WRITE = "DELETE INSERT SELECT UPDATE"
ON_TASKS = (
    "SELECT(blocked_on,dead_lettered_at,failed_at,id,needs_publish,publish_at,queue,queue_set,run_at,type)"
    " UPDATE(dead_letter_at,dead_lettered_at)"
)
ON_WORKERS = "SELECT(concurrency,lease_expires_at,namespace,queues,reaped_at,running,types)"

TABLES = {
    "catalog_revision": {API: "SELECT", WORKER: "SELECT", OPERATOR: "SELECT"},
    "dtq_migration": {API: "SELECT", WORKER: "SELECT", OPERATOR: "SELECT"},
    "prune_slice": {},
    "queue": {API: "SELECT", WORKER: "SELECT", OPERATOR: WRITE},
    "queue_set": {API: "SELECT", WORKER: "SELECT", OPERATOR: WRITE},
    "resource_claim": {OPERATOR: WRITE},
    "schedule": {API: "SELECT UPDATE(next_fire_at)", OPERATOR: WRITE},
    "task_events": {API: "SELECT"},
    "task_type": {API: "SELECT", WORKER: "SELECT(backoff,concurrency,rate_limit,type)", OPERATOR: WRITE},
    "task_type_deletion": {OPERATOR: "DELETE SELECT UPDATE"},
    "tasks": {API: "SELECT UPDATE(dead_letter_at,dead_lettered_at)", OPERATOR: ON_TASKS},
    "type_limit": {},
    "worker_claims": {API: "DELETE SELECT(worker_id)"},
    "workers": {API: "DELETE SELECT UPDATE(reaped_at)", OPERATOR: ON_WORKERS},
}
"""The privileges of each role on each table, beside dtq_readonly's SELECT on all of them."""

FUNCTIONS = {
    "dtq_admit": "",
    "dtq_begin_deletion": "dtq_operator",
    "dtq_cancel": "dtq_api",
    "dtq_claim": "dtq_worker",
    "dtq_confirm": "dtq_api dtq_worker",
    "dtq_create_event_partition": "",
    "dtq_create_event_partitions": "dtq_api",
    "dtq_dead_letter": "dtq_api dtq_worker",
    "dtq_dead_letters_due": "dtq_api",
    "dtq_drop_event_partitions": "dtq_api",
    "dtq_enqueue": "dtq_api",
    "dtq_expire": "dtq_worker",
    "dtq_finish": "dtq_api dtq_worker",
    "dtq_first_id": "",
    "dtq_forget_ended": "",
    "dtq_held": "dtq_api",
    "dtq_keep_type_limit": "",
    "dtq_lost": "dtq_api",
    "dtq_move": "dtq_api",
    "dtq_number": "",
    "dtq_prune": "dtq_api",
    "dtq_prune_sooner": "",
    "dtq_record_inserts": "",
    "dtq_record_updates": "",
    "dtq_redrive": "dtq_api",
    "dtq_register": "dtq_worker",
    "dtq_relay": "dtq_api",
    "dtq_release": "dtq_worker",
    "dtq_removed_queues": "dtq_api dtq_operator",
    "dtq_renew": "dtq_worker",
    "dtq_replay": "dtq_api",
    "dtq_retention": "",
    "dtq_revise_queue_sets": "",
    "dtq_revise_task_type": "",
    "dtq_revise_types_deleted": "",
    "dtq_run_alone": "dtq_worker",
    "dtq_slot": "",
    "dtq_snooze_bound": "",
    "dtq_tokens": "",
    "dtq_unblock": "dtq_api dtq_worker",
    "dtq_undo": "dtq_api",
    "dtq_waiting": "dtq_operator",
}
"""The roles that may call each function."""

GRANTED_ON_TABLES = """
SELECT c.relname AS name, a.grantee::regrole::text AS role, a.privilege_type AS privilege, NULL AS column
FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND a.grantee <> c.relowner
UNION ALL
SELECT c.relname, a.grantee::regrole::text, a.privilege_type, t.attname
FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
WHERE c.relnamespace = 'public'::regnamespace
"""
GRANTED_ON_FUNCTIONS = """
SELECT p.proname AS name, a.grantee::regrole::text AS role
FROM pg_proc p
LEFT JOIN LATERAL aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a ON a.grantee <> p.proowner
WHERE p.pronamespace = 'public'::regnamespace
"""
OWNERS = """
SELECT c.relname AS name, c.relowner::regrole::text AS owner FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S')
UNION ALL
SELECT p.proname, p.proowner::regrole::text FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
"""


@pytest_asyncio.fixture(loop_scope="session")
async def roles_dsn(dsn: str, postgres_server: PostgresService) -> str:
    """A fresh database, made without roles, to which an administrator added them."""
    await create_roles(postgres_server, dsn)
    return dsn


@pytest_asyncio.fixture(loop_scope="session")
async def sessions(roles_dsn: str, postgres_server: PostgresService) -> AsyncIterator[dict[str, Connection]]:
    """A session of a login user for each role of a process, by role."""
    async with AsyncExitStack() as stack:
        opened = {}
        for role in RUNTIME:
            user, password = await stack.enter_async_context(login_user(postgres_server, f"IN ROLE {role}"))
            opened[role] = await asyncpg.connect(as_user(roles_dsn, user, password))
            stack.callback(opened[role].terminate)
        yield opened


async def test_each_role_has_exactly_its_privileges_on_tables(roles_dsn: str) -> None:
    assert await table_privileges(roles_dsn) == expected_tables()


async def test_each_role_may_call_exactly_its_functions(roles_dsn: str) -> None:
    assert await function_privileges(roles_dsn) == FUNCTIONS


async def test_every_table_has_a_decision(roles_dsn: str) -> None:
    made = [row["name"] for row in await fetch(roles_dsn, OWNERS) if row["name"] not in FUNCTIONS]
    tables = {name for name in made if not name.startswith("task_events_")}
    assert tables == set(TABLES) == set(roles.TABLES)


async def test_everything_belongs_to_the_owner(roles_dsn: str) -> None:
    assert {row["name"] for row in await fetch(roles_dsn, OWNERS) if row["owner"] != "dtq_owner"} == set()


async def test_every_function_is_pinned_and_callable_by_no_stranger_without_roles(dsn: str) -> None:
    rows = await fetch(
        dsn,
        "SELECT p.proname AS name, p.prosqlbody IS NOT NULL AS is_bound, p.prosecdef AS as_owner,"
        " 'search_path=public, pg_temp' = ANY (p.proconfig) IS TRUE AS is_pinned"
        " FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace",
    )
    assert {row["name"] for row in rows} == set(FUNCTIONS)
    assert [row["name"] for row in rows if not (row["is_bound"] or (row["as_owner"] and row["is_pinned"]))] == []
    assert [row["name"] for row in rows if row["is_bound"] and (row["as_owner"] or row["is_pinned"])] == []
    granted = await fetch(dsn, GRANTED_ON_FUNCTIONS)
    assert {row["name"] for row in granted if row["role"] is not None} == set()


@pytest.mark.parametrize("role", RUNTIME)
async def test_no_role_creates_objects_or_becomes_the_owner(role: str, sessions: dict[str, Connection]) -> None:
    for statement in (
        "CREATE TABLE stray (id integer)",
        "CREATE FUNCTION stray() RETURNS integer LANGUAGE sql AS 'SELECT 1'",
        "CREATE SCHEMA stray",
        "TRUNCATE tasks",
        "DROP TABLE task_events_default",
        "ALTER FUNCTION dtq_slot(text, jsonb, jsonb) VOLATILE",
        "SET ROLE dtq_owner",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await sessions[role].execute(statement)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (WORKER, "DELETE FROM tasks"),
        (WORKER, "UPDATE tasks SET status = 'SUCCEEDED'"),
        (WORKER, "SELECT payload FROM tasks"),
        (WORKER, "SELECT id FROM workers"),
        (WORKER, "SELECT * FROM dtq_undo('{}')"),
        (WORKER, "SELECT * FROM dtq_prune(1)"),
        (WORKER, "SELECT dtq_drop_event_partitions(30)"),
        (WORKER, "SELECT payload_schema FROM task_type"),
        (OPERATOR, "SELECT payload FROM tasks"),
        (OPERATOR, "SELECT result FROM tasks"),
        (OPERATOR, "SELECT note FROM task_events"),
        (API, "INSERT INTO task_events (task_id, event) VALUES (gen_random_uuid(), 'SUCCEEDED')"),
        (API, "UPDATE tasks SET status = 'SUCCEEDED'"),
        (API, "DELETE FROM tasks"),
        (API, "UPDATE task_type SET active = true"),
        (READONLY, "DELETE FROM tasks"),
        (READONLY, "SELECT dtq_cancel(gen_random_uuid())"),
    ],
)
async def test_what_a_process_does_not_need_is_refused(
    role: str, statement: str, sessions: dict[str, Connection]
) -> None:
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await sessions[role].execute(statement)


async def test_a_table_of_the_caller_does_not_mislead_a_function(sessions: dict[str, Connection]) -> None:
    worker, forged = sessions[WORKER], uuid4()
    await worker.execute("CREATE TEMP TABLE workers (id uuid, lease_expires_at timestamptz, reaped_at timestamptz)")
    await worker.execute("INSERT INTO pg_temp.workers VALUES ($1, 'infinity', NULL)", forged)
    await worker.execute("SET search_path = pg_temp, public")
    with pytest.raises(asyncpg.PostgresError, match="lease of worker"):
        await worker.fetch("SELECT * FROM public.dtq_claim($1, '{}', '{}', 0)", forged)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("dtq_create_event_partitions(-1)", "from 0 to 31 days"),
        ("dtq_create_event_partitions(32)", "from 0 to 31 days"),
        ("dtq_create_event_partitions(NULL)", "from 0 to 31 days"),
        ("dtq_drop_event_partitions(0)", "at least 1 day"),
        ("dtq_drop_event_partitions(-8)", "at least 1 day"),
        ("dtq_drop_event_partitions(NULL)", "at least 1 day"),
    ],
)
async def test_functions_that_change_the_schema_check_their_arguments(
    call: str, message: str, sessions: dict[str, Connection]
) -> None:
    with pytest.raises(asyncpg.RaiseError, match=message):
        await sessions[API].execute(f"SELECT {call}")


async def test_the_roles_may_be_created_again(roles_dsn: str, postgres_server: PostgresService) -> None:
    await run_sql(as_administrator(postgres_server, roles_dsn), "GRANT DELETE ON tasks TO dtq_worker, PUBLIC")
    await run_sql(as_administrator(postgres_server, roles_dsn), "REVOKE ALL ON FUNCTION dtq_claim FROM dtq_worker")
    assert await table_privileges(roles_dsn) != expected_tables()
    await migrate(roles_dsn, with_roles=True)
    assert await table_privileges(roles_dsn) == expected_tables()
    assert await function_privileges(roles_dsn) == FUNCTIONS


async def test_a_migration_runs_as_the_owner_and_renews_the_grants(
    roles_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_one = Migration(
        name="9998_pre_more.sql",
        sql="CREATE FUNCTION dtq_more() RETURNS integer LANGUAGE sql RETURN 1; CREATE TABLE more (id integer);"
        "REVOKE ALL ON tasks FROM dtq_api",
    )
    known = migrations.migrations()
    monkeypatch.setattr(migrations, "migrations", lambda: [*known, next_one])
    assert await migrate(roles_dsn) == (next_one.name,)
    owners = {row["name"]: row["owner"] for row in await fetch(roles_dsn, OWNERS)}
    assert (owners["dtq_more"], owners["more"]) == ("dtq_owner", "dtq_owner")
    assert await table_privileges(roles_dsn) == expected_tables()
    assert (await function_privileges(roles_dsn))["dtq_more"] == ""


async def test_a_user_who_may_create_roles_needs_no_administrator(postgres_server: PostgresService) -> None:
    name = f"dtq_{secrets.token_hex(8)}"
    async with login_user(postgres_server, "CREATEROLE") as (user, password):
        await run_sql(postgres_server.admin_dsn, f'CREATE DATABASE "{name}" OWNER {user} TEMPLATE template0')
        dsn = as_user(postgres_server.dsn(name), user, password)
        try:
            await migrate(dsn, with_roles=True)
            assert await table_privileges(dsn) == expected_tables()
            assert await function_privileges(dsn) == FUNCTIONS
        finally:
            await drop_database(postgres_server, name)


async def test_a_user_who_may_not_create_roles_is_told_who_can(postgres_server: PostgresService) -> None:
    name = f"dtq_{secrets.token_hex(8)}"
    async with login_user(postgres_server) as (user, password):
        await run_sql(postgres_server.admin_dsn, f'CREATE DATABASE "{name}" OWNER {user} TEMPLATE template0')
        dsn = as_user(postgres_server.dsn(name), user, password)
        try:
            with pytest.raises(Rejected, match="dtq migrate --roles --print") as caught:
                await migrate(dsn, with_roles=True)
            assert caught.value.code == "RolesRefused"
            assert (await migrations.status(dsn)).pending == (), "the migrations themselves are applied"
        finally:
            await drop_database(postgres_server, name)


async def test_only_a_member_of_the_owner_migrates(
    roles_dsn: str, postgres_server: PostgresService, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrations.migrations()
    monkeypatch.setattr(migrations, "migrations", lambda: [*known, Migration(name="9998_pre_more.sql", sql="")])
    async with login_user(postgres_server, f"IN ROLE {API}") as (user, password):
        with pytest.raises(Rejected, match="GRANT dtq_owner"):
            await migrate(as_user(roles_dsn, user, password))


async def test_a_process_without_its_role_says_what_it_lacks(roles_dsn: str, postgres_server: PostgresService) -> None:
    async with (
        login_user(postgres_server) as (user, password),
        Database(as_user(roles_dsn, user, password), name="test") as database,
    ):
        with pytest.raises(Unmigrated, match=r"permission denied .*`dtq migrate --roles`"):
            await database.fetch(query("catalog_revision"))


async def test_a_schema_of_its_own_is_pinned(empty_dsn: str, postgres_server: PostgresService) -> None:
    await run_sql(empty_dsn, "CREATE SCHEMA tasks_of_dtq")
    dsn = f"{empty_dsn}?options=-c%20search_path%3Dtasks_of_dtq"
    await migrate(dsn)
    await create_roles(postgres_server, dsn)
    rows = await fetch(dsn, "SELECT proconfig FROM pg_proc WHERE proname = 'dtq_claim'")
    assert "search_path=tasks_of_dtq, pg_temp" in rows[0]["proconfig"]
    async with (
        login_user(postgres_server, f"IN ROLE {API}") as (user, password),
        Database(as_user(dsn, user, password), name="test") as database,
    ):
        assert await database.fetch(query("event_partitions_create"), 9)
        with pytest.raises(Unmigrated, match="permission denied"):
            await database.fetch("CREATE TABLE tasks_of_dtq.stray (id integer)")


async def fetch(dsn: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(statement)
    finally:
        await connection.close()


def expected_tables() -> dict[str, dict[str, str]]:
    return {table: {**granted, READONLY: "SELECT"} for table, granted in TABLES.items()}


async def table_privileges(dsn: str) -> dict[str, dict[str, str]]:
    """Return the privileges on each table by role, as TABLES writes them; PUBLIC is the role `-`."""
    found: dict[str, dict[str, dict[str, set[str]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for row in await fetch(dsn, GRANTED_ON_TABLES):
        found[row["name"]][row["role"]][row["privilege"]] |= {row["column"]} - {None}
    return {
        table: {
            role: " ".join(
                f"{privilege}({','.join(sorted(columns))})" if columns else privilege
                for privilege, columns in sorted(privileges.items())
            )
            for role, privileges in of_roles.items()
        }
        for table, of_roles in found.items()
    }


async def function_privileges(dsn: str) -> dict[str, str]:
    found: dict[str, set[str]] = defaultdict(set)
    for row in await fetch(dsn, GRANTED_ON_FUNCTIONS):
        found[row["name"]] |= {row["role"]} - {None}
    return {name: " ".join(sorted(of_roles)) for name, of_roles in found.items()}

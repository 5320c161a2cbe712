"""How a session is opened: several servers, servers that refuse, and poolers."""

import asyncio
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import pytest

from dtq.domain.errors import Unavailable
from dtq_db.attempts import LeaseStore
from dtq_db.connections import Database, connect
from dtq_db.migrations import migrate, status
from tests.support.pgbouncer import pgbouncer
from tests.support.services import Services

SETTINGS = {"statement_timeout": "5s", "lock_timeout": "2s", "enable_seqscan": "off", "jit": "off"}


def elsewhere(dsn: str, netloc: str) -> str:
    return urlunsplit(urlsplit(dsn)._replace(netloc=netloc))


@contextmanager
def silent() -> Iterator[int]:
    """Yield the port of a server that takes connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def shown(database: Database, setting: str) -> str:
    ((value,),) = await database.fetch(f"SHOW {setting}")
    return str(value)


async def test_words_of_libpq_do_no_harm(dsn: str) -> None:
    words = "connect_timeout=2&keepalives=1&keepalives_idle=30&channel_binding=prefer&gssencmode=disable&sslmode=prefer"
    async with Database(f"{dsn}?{words}&application_name=x&options=-c%20search_path%3Dpublic", name="test") as database:
        assert await shown(database, "search_path") == "public"
        assert await shown(database, "application_name") == "test"
        for name, value in SETTINGS.items():
            assert await shown(database, name) == value


@pytest.mark.parametrize("first", ["refuses", "is silent"])
async def test_the_next_of_several_servers_is_tried(dsn: str, first: str) -> None:
    account, _, address = urlsplit(dsn).netloc.rpartition("@")
    with silent() as port:
        bad = port if first == "is silent" else closed_port()
        several = elsewhere(dsn, f"{account}@127.0.0.1:{bad},{address}")
        async with Database(several, name="test") as database:
            assert await database.fetch("SELECT 1")
            assert await database.dedicated("test").fetch("SELECT 1")


async def test_of_several_servers_the_one_that_takes_writes_is_chosen(dsn: str) -> None:
    connection = await connect(dsn, name="test")
    name = urlsplit(dsn).path[1:]
    await connection.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    await connection.close()
    account, _, address = urlsplit(dsn).netloc.rpartition("@")
    with pytest.raises(Unavailable, match="None of the hosts match the target attribute"):
        await connect(elsewhere(dsn, f"{account}@{address},{address}"), name="test")


async def test_when_no_server_will_do_each_says_why(dsn: str) -> None:
    account = urlsplit(dsn).netloc.rpartition("@")[0]
    ports = [closed_port(), closed_port()]
    several = elsewhere(dsn, f"{account}@127.0.0.1:{ports[0]},127.0.0.1:{ports[1]}")
    with pytest.raises(Unavailable) as caught:
        await connect(several, name="test")
    assert all(f"127.0.0.1:{port}: Postgres does not answer" in str(caught.value) for port in ports)
    assert str(urlsplit(dsn).password) not in str(caught.value)


async def test_a_server_that_refuses_is_no_bug_and_says_what_to_do(dsn: str, tmp_path: Path) -> None:
    missing = urlunsplit(urlsplit(dsn)._replace(path="/nowhere"))
    wrong = elsewhere(dsn, f"dtq:{secrets.token_hex(4)}@{urlsplit(dsn).netloc.rpartition('@')[2]}")
    told = {
        missing: r'database "nowhere" does not exist: create it, or correct the database in DB_DSN',
        wrong: "password authentication failed",
        f"{dsn}?sslmode=require": "Postgres does not answer: ConnectionError: .*rejected SSL upgrade",
        f"{dsn}?sslmode=verify-full&sslrootcert={tmp_path}/ca.crt": "ca.crt, which DB_DSN names as sslrootcert",
        f"{dsn}?options=-c%20no_such_setting%3D1": "no_such_setting",
        f"{dsn}?sslmod=require": "DB_DSN has the parameter sslmod",
    }
    for bad, text in told.items():
        with pytest.raises(Unavailable, match=text):
            await connect(bad, name="test")
        async with Database(bad, name="test") as database:
            with pytest.raises(Unavailable, match=text):
                await database.fetch("SELECT 1")
        with pytest.raises(Unavailable, match=text):
            await migrate(bad)


IGNORED = ("", "statement_timeout,lock_timeout,idle_in_transaction_session_timeout,jit,enable_seqscan")
"""Without it a pooler refuses our settings; with it, it leaves them out and says nothing."""


@pytest.fixture
def folder(services: Services) -> Path:
    return services.folder / f"pgbouncer-{secrets.token_hex(4)}"


@pytest.mark.parametrize("ignored", IGNORED)
async def test_behind_a_pooler_in_session_mode_all_is_as_it_is_without(
    empty_dsn: str, folder: Path, ignored: str
) -> None:
    with pgbouncer(folder, empty_dsn, pool_mode="session", ignore_startup_parameters=ignored) as pooled:
        assert await migrate(pooled)
        assert not (await status(pooled)).pending
        async with Database(pooled, name="test") as database:
            dedicated = database.dedicated("test")
            for _ in range(3):
                await asyncio.gather(*(database.fetch("SELECT pg_sleep(0.01)") for _ in range(8)))
                for name, value in SETTINGS.items():
                    assert await shown(database, name) == value
                    assert (await dedicated.fetch(f"SHOW {name}"))[0][0] == value
        worker, store = uuid4(), LeaseStore(pooled)
        await store.register(worker, name="w", namespace="tasks", queues=["default"], types=[], concurrency=1)
        assert await store.renew(worker, {}) == []
        await store.close()


@pytest.mark.parametrize("ignored", IGNORED)
async def test_a_pooler_in_transaction_mode_is_told_in_one_line(empty_dsn: str, folder: Path, ignored: str) -> None:
    with pgbouncer(folder, empty_dsn, pool_mode="transaction", ignore_startup_parameters=ignored) as pooled:
        for who in (lambda: connect(pooled, name="test"), lambda: migrate(pooled)):
            with pytest.raises(Unavailable, match=r"transaction mode.*set pool_mode=session") as caught:
                await who()
            assert "\n" not in str(caught.value)
        async with Database(pooled, name="test") as database:
            with pytest.raises(Unavailable, match="set pool_mode=session"):
                await database.fetch("SELECT 1")

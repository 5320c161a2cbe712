"""The private servers: they start, answer, survive a crash, and leave nothing."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest

from hack.lib import ports, processes
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.stack.management import Management
from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.support.addresses import BrokerVhost, PostgresService

MakePostgres = Callable[[], Awaitable[Postgres]]
MakeRabbitMQ = Callable[[], Awaitable[RabbitMQ]]
ANSWER_SECONDS = 10


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind((ports.HOST, 0))
        holder.listen()
        yield holder.getsockname()[1]


def everyone(*servers: Background) -> list[processes.Identity]:
    leaders = [identity for process in servers if (identity := process.identity)]
    return [*leaders, *(member for leader in leaders for member in processes.family(leader))]


async def test_postgres_leaves_no_process_port_or_file(own_postgres: MakePostgres) -> None:
    server = await own_postgres()
    members = everyone(server.process)
    assert len(members) > 3
    assert not ports.is_free(server.port)
    await asyncio.to_thread(server.stop)
    assert not processes.any_alive(members)
    assert ports.is_free(server.port)
    await asyncio.to_thread(server.destroy)
    assert not server.home.exists()


async def test_the_owner_of_the_database_is_no_superuser(own_postgres: MakePostgres) -> None:
    server = await own_postgres()
    assert server.sql("SELECT rolname FROM pg_roles WHERE rolsuper") == "postgres"
    assert server.sql("SHOW fsync") == "on"
    assert server.sql("SHOW unix_socket_directories") == ""


async def test_postgres_keeps_what_was_committed_through_a_crash(own_postgres: MakePostgres) -> None:
    server = await own_postgres()
    connection = await asyncpg.connect(server.dsn())
    await connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    await asyncio.to_thread(server.kill)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT answer FROM kept", timeout=ANSWER_SECONDS)
    await connection.close()
    await asyncio.to_thread(server.start)
    assert server.sql("SELECT answer FROM kept", database="dtq") == "42"


async def test_a_paused_postgres_is_silent_until_it_goes_on(own_postgres: MakePostgres) -> None:
    server = await own_postgres()
    connection = await asyncpg.connect(server.dsn())
    server.pause()
    question = asyncio.ensure_future(connection.fetchval("SELECT 42"))
    done, _ = await asyncio.wait({question}, timeout=0.3)
    assert not done
    server.resume()
    assert await asyncio.wait_for(question, ANSWER_SECONDS) == 42
    await connection.close()


async def test_rabbitmq_leaves_no_process_port_or_file(own_rabbitmq: MakeRabbitMQ) -> None:
    server = await own_rabbitmq()
    listening = [server.port, server.management_port, server.distribution_port, server.epmd_port]
    members = everyone(server.process, server.epmd)
    assert not any(ports.is_free(port) for port in listening)
    assert [user["name"] for user in server.management.call("GET", "/api/users")] == ["dtq"]
    await asyncio.to_thread(server.stop)
    assert not processes.any_alive(members)
    assert all(ports.is_free(port) for port in listening)
    await asyncio.to_thread(server.destroy)
    assert not server.home.exists()


async def test_rabbitmq_keeps_virtual_hosts_through_a_crash(own_rabbitmq: MakeRabbitMQ) -> None:
    server = await own_rabbitmq()
    server.management.create_vhost("kept")
    members = everyone(server.process, server.epmd)
    await asyncio.to_thread(server.kill)
    assert not processes.any_alive(members)
    await asyncio.to_thread(server.start)
    assert "kept" in [vhost["name"] for vhost in server.management.call("GET", "/api/vhosts")]


def test_guest_is_not_known(broker_vhost: BrokerVhost) -> None:
    guest = Management(url=broker_vhost.management.url, user="guest", password="guest")
    with pytest.raises(HackError, match="401"):
        guest.call("GET", "/api/overview")


def test_passwords_are_not_in_a_representation(tmp_path: Path) -> None:
    server = Postgres(home=tmp_path, port=1, password="s3cret")
    assert "s3cret" not in repr(server)


def test_a_taken_port_names_its_holder_and_the_way_out(tmp_path: Path, taken_port: int) -> None:
    server = Postgres(home=tmp_path / "postgres", port=taken_port, password="x")
    with pytest.raises(HackError) as caught:
        server.start()
    text = str(caught.value)
    assert f"port {taken_port}" in text
    assert "pid " in text
    assert "make up DTQ_POSTGRES_PORT=PORT" in text
    assert not (tmp_path / "postgres").exists()


async def test_a_server_that_cannot_start_shows_the_end_of_its_log(own_postgres: MakePostgres) -> None:
    server = await own_postgres()
    await asyncio.to_thread(server.stop)
    (server.home / "data" / "PG_VERSION").write_text("6\n")
    with pytest.raises(HackError) as caught:
        await asyncio.to_thread(server.start)
    text = str(caught.value)
    assert "Postgres ended while it started" in text
    assert str(server.log) in text
    assert "incompatible" in text


async def test_each_test_has_a_database_of_its_own(postgres_server: PostgresService, empty_dsn: str) -> None:
    connection = await asyncpg.connect(empty_dsn)
    try:
        name = await connection.fetchval("SELECT current_database()")
        assert empty_dsn == postgres_server.dsn(name)
        assert await connection.fetchval("SELECT current_user") == postgres_server.owner
    finally:
        await connection.close()


async def test_a_cloned_database_has_the_schema_and_nothing_else(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        assert await connection.fetchval("SELECT count(*) FROM tasks") == 0
        assert await connection.fetchval("SELECT count(*) FROM dtq_migration") > 0
    finally:
        await connection.close()

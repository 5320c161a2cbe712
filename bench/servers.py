"""The servers of a run: a Postgres and a RabbitMQ of its own, which end with it. Both are durable, as in production."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiormq
import asyncpg

from hack.lib import ports, processes
from hack.stack import guard, packages
from hack.stack.postgres import ADMIN, OWNER, Postgres
from hack.stack.rabbitmq import USER, RabbitMQ

CONNECTIONS_MAX: Final = 300
COMMAND_SECONDS: Final = 60.0
"""Longest statement that prepares a measurement, in seconds: a forgotten connection may hold a lock."""
SETTINGS: Final = {
    "shared_preload_libraries": "'pg_stat_statements'",  # counts the statements
    "track_commit_timestamp": "on",  # says when a task's end became durable
    # No checkpoint within a measurement: the full pages after it would be charged to the next contestant.
    "checkpoint_timeout": "'1h'",
    "max_wal_size": "'16GB'",
}
"""What differs from the defaults of Postgres, for every contestant alike."""
SHOWN: Final = ("fsync", "synchronous_commit", "full_page_writes", "wal_level", *SETTINGS)


@dataclass(frozen=True, slots=True)
class Servers:
    """The two running servers, and a connection of the administrator."""

    postgres: Postgres
    rabbitmq: RabbitMQ
    admin: Any

    def environ(self, database: str) -> dict[str, str]:
        """Return the environment of dtq's processes on one database."""
        return {
            "DB_DSN": self.postgres.dsn(database),
            "RMQ_USER": USER,
            "RMQ_PASS": self.rabbitmq.password,
            "RMQ_HOST": ports.HOST,
            "RMQ_PORT": str(self.rabbitmq.port),
            "RMQ_VHOST": "/",
        }

    async def create_database(self, name: str) -> None:
        """Create an empty database."""
        await self.admin.execute(f'CREATE DATABASE "{name}" OWNER {OWNER}')

    async def run_sql(self, database: str, *statements: str) -> None:
        """Run statements as the administrator."""
        connection = await asyncpg.connect(self.postgres.dsn(database, user=ADMIN), command_timeout=COMMAND_SECONDS)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def purge(self, queues: tuple[str, ...]) -> None:
        """Drop what waits in these queues; one that does not exist is left out."""
        connection = await aiormq.connect(self.rabbitmq.url())
        try:
            for queue in queues:
                channel = await connection.channel()
                try:
                    await channel.queue_purge(queue)
                except aiormq.exceptions.ChannelNotFoundEntity:
                    continue
                await channel.close()
        finally:
            await connection.close()

    async def describe(self) -> dict[str, Any]:
        """Return the versions and the settings."""
        overview = await asyncio.to_thread(self.rabbitmq.management.call, "GET", "/api/overview")
        return {
            "postgres": await self.admin.fetchval("SHOW server_version"),
            "rabbitmq": overview["rabbitmq_version"],
            "settings": {name: await self.admin.fetchval(f"SHOW {name}") for name in SHOWN},
        }


@asynccontextmanager
async def servers() -> AsyncIterator[Servers]:
    """Start both servers; end them, and delete their data, at the end of the block or of this process."""
    packages.ensure(Path(tempfile.gettempdir()) / "dtq-bench-apt.log")
    folder = _folder()
    owner = processes.identify(os.getpid())
    assert owner is not None
    guard.watch(folder, owner).start()
    try:
        postgres, rabbitmq = await asyncio.to_thread(_start, folder)
        admin = await asyncpg.connect(postgres.dsn("postgres", user=ADMIN))
        try:
            await admin.execute("CREATE EXTENSION pg_stat_statements")
            yield Servers(postgres, rabbitmq, admin)
        finally:
            await admin.close()
    finally:
        guard.sweep(folder)


def _folder() -> Path:
    """Make a folder on a disk, as in production, that the servers' own users can read."""
    folder = Path(tempfile.mkdtemp(prefix="dtq-bench-", dir="/var/tmp"))
    folder.chmod(0o755)
    return folder


def _start(folder: Path) -> tuple[Postgres, RabbitMQ]:
    port, broker_port, management_port, distribution_port, epmd_port = ports.choose(5)
    postgres = Postgres(
        home=folder / "postgres", port=port, password=secrets.token_hex(16), connections_max=CONNECTIONS_MAX
    )
    rabbitmq = RabbitMQ(
        home=folder / "rabbitmq",
        port=broker_port,
        management_port=management_port,
        distribution_port=distribution_port,
        epmd_port=epmd_port,
        password=secrets.token_hex(16),
    )
    postgres.start()
    for name, value in SETTINGS.items():
        postgres.sql(f"ALTER SYSTEM SET {name} = {value}")
    postgres.restart()
    rabbitmq.start()
    return postgres, rabbitmq

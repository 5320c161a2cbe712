"""Where the shared servers of tests are, with which credentials, and which part of a server belongs to one test.

Starts and stops nothing.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from hack.lib import ports
from hack.lib.errors import HackError
from hack.stack.management import Management
from hack.stack.rabbitmq import USER, RabbitMQ


@dataclass(frozen=True, slots=True, kw_only=True)
class PostgresService:
    """The Postgres that the session shares: an administrator, and a role that owns the tests' databases."""

    admin_dsn: str = field(repr=False)
    owner: str
    password: str = field(repr=False)

    def dsn(self, database: str) -> str:
        """The URL of a database, as its owner."""
        parts = urlsplit(self.admin_dsn)
        address = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{self.owner}:{self.password}@{address}", path=f"/{database}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQService:
    """The RabbitMQ that the session shares."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    management: Management

    @contextmanager
    def fresh_vhost(self) -> Iterator["BrokerVhost"]:
        """Make a virtual host, and delete it with all that is in it when the block ends."""
        name = f"test-{secrets.token_hex(8)}"
        self.management.create_vhost(name)
        try:
            yield BrokerVhost(
                host=self.host,
                port=self.port,
                user=self.user,
                password=self.password,
                vhost=name,
                management=self.management,
            )
        finally:
            self.management.delete_vhost(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerVhost:
    """A virtual host that belongs to one test."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)
    vhost: str
    management: Management

    @property
    def url(self) -> str:
        """A connection URL."""
        return f"amqp://{self.user}:{self.password}@{self.host}:{self.port}/{self.vhost}"

    def environ(self, dsn: str, **more: str) -> dict[str, str]:
        """The environment of a process of dtq that works on this and on a database."""
        return {
            "DB_DSN": dsn,
            "RMQ_USER": self.user,
            "RMQ_PASS": self.password,
            "RMQ_HOST": self.host,
            "RMQ_PORT": str(self.port),
            "RMQ_VHOST": self.vhost,
        } | more


def free_address() -> str:
    """Return an address where a test's own server can listen."""
    return f"{ports.HOST}:{ports.choose(1)[0]}"


def vhost_of(server: RabbitMQ, name: str = "/") -> BrokerVhost:
    """Return where a virtual host of a broker of the test's own is."""
    return BrokerVhost(
        host=ports.HOST,
        port=server.port,
        user=USER,
        password=server.password,
        vhost=name,
        management=server.management,
    )


def given_postgres() -> PostgresService | None:
    """The server that TEST_DB_DSN names; its user must be allowed to create databases."""
    given = os.environ.get("TEST_DB_DSN")
    if not given:
        return None
    parts = urlsplit(given)
    return PostgresService(admin_dsn=given, owner=parts.username or "", password=parts.password or "")


def given_rabbitmq() -> RabbitMQService | None:
    """The broker that TEST_RMQ_URL and TEST_RMQ_MANAGEMENT_URL name."""
    given = os.environ.get("TEST_RMQ_URL")
    if not given:
        return None
    management_url = os.environ.get("TEST_RMQ_MANAGEMENT_URL")
    if not management_url:
        raise HackError("TEST_RMQ_URL is set without TEST_RMQ_MANAGEMENT_URL.", next_step="set both, or neither.")
    parts = urlsplit(given)
    user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
    web = urlsplit(management_url)
    address = f"{web.scheme}://{web.netloc.rpartition('@')[2]}"
    return RabbitMQService(
        host=parts.hostname or ports.HOST,
        port=parts.port or 5672,
        user=user,
        password=password,
        management=Management(url=address, user=user, password=password),
    )

"""The servers of one test session: started by the first process that needs one, shared by all processes.

Never touches a server that this session did not start. A server that cannot start is an error, not a skip.
"""

import fcntl
import json
import os
import secrets
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hack.lib import ports, processes
from hack.lib.background import read_pid_file
from hack.lib.errors import HackError
from hack.stack import guard, packages
from hack.stack.management import Management
from hack.stack.postgres import ADMIN, OWNER, Postgres
from hack.stack.rabbitmq import USER, RabbitMQ
from tests.support.addresses import PostgresService, RabbitMQService, given_postgres, given_rabbitmq
from tests.support.databases import create_database, run_sql

# One server for every test process: four walks of failpoints that hang keep a hundred connections each.
CONNECTIONS_MAX = 500
STATISTICS_MILLISECONDS = 1000
START_TRIES = 3
Server = TypeVar("Server", Postgres, RabbitMQ)


class Services:
    """The session's servers, below one folder that the session's main process makes and removes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._guarding = threading.Lock()

    @classmethod
    def create(cls) -> "Services":
        """Make the folder, readable for the servers' own users; nothing is started."""
        folder = Path(tempfile.mkdtemp(prefix="dtq-test-"))
        folder.chmod(0o755)
        owner = processes.identify(os.getpid())
        assert owner is not None
        (folder / "owner").write_text(f"{owner}\n")
        return cls(folder)

    def remove(self) -> None:
        """End everything that was started, and delete the folder."""
        guard.sweep(self.folder)

    def postgres(self) -> PostgresService:
        """Return the given Postgres, or the shared one, which the first call starts."""
        if given := given_postgres():
            return given
        with self._once("postgres", self._start_postgres) as saved:
            server = Postgres(home=Path(saved["home"]), port=saved["port"], password=saved["password"])
        return PostgresService(admin_dsn=server.dsn("postgres", user=ADMIN), owner=OWNER, password=server.password)

    def rabbitmq(self) -> RabbitMQService:
        """Return the given RabbitMQ, or the shared one, which the first call starts."""
        if given := given_rabbitmq():
            return given
        with self._once("rabbitmq", self._start_rabbitmq) as saved:
            management = Management(
                url=f"http://{ports.HOST}:{saved['management_port']}", user=USER, password=saved["password"]
            )
        return RabbitMQService(
            host=ports.HOST, port=saved["port"], user=USER, password=saved["password"], management=management
        )

    async def template(self, migrate: Callable[[str], Any]) -> str:
        """Return the name of a database to clone, with the whole schema; it is migrated once per session."""
        server = self.postgres()
        name = f"{self.folder.name.replace('-', '_').lower()}_template"
        with self._lock():
            marker = self.folder / "template"
            if not marker.exists():
                await create_database(server, name)
                await migrate(server.dsn(name))
                # No connection is allowed any more, so that a clone never has to wait.
                await run_sql(server.admin_dsn, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
                marker.write_text(name)
        return name

    def new_postgres(self) -> Postgres:
        """Start a server for one test; it keeps its data through a crash, as in production."""
        return self._start_any(
            lambda: Postgres(
                home=self._new_home("own-postgres"), port=ports.choose(1)[0], password=secrets.token_hex(16)
            )
        )

    def new_rabbitmq(self) -> RabbitMQ:
        """Start a broker for one test."""
        return self._start_any(lambda: _broker(self._new_home("own-rabbitmq")))

    def _start_postgres(self) -> dict[str, Any]:
        server = self._start_any(
            lambda: Postgres(
                home=self._new_home("postgres"),
                port=ports.choose(1)[0],
                password=secrets.token_hex(16),
                durable=False,
                connections_max=CONNECTIONS_MAX,
            )
        )
        return {"home": str(server.home), "port": server.port, "password": server.password}

    def _start_rabbitmq(self) -> dict[str, Any]:
        server = self._start_any(lambda: _broker(self._new_home("rabbitmq")))
        return {"port": server.port, "management_port": server.management_port, "password": server.password}

    def _start_any(self, make: Callable[[], Server]) -> Server:
        """Start a server; if another process took a port first, try other ports."""
        self._require_packages()
        with self._guarding:
            guard.watch(self.folder, self._owner()).start()
        for _ in range(START_TRIES - 1):
            server = make()
            try:
                server.start()
            except HackError:
                server.destroy()
                self._owner()
            else:
                return server
        server = make()
        server.start()
        return server

    def _owner(self) -> processes.Identity:
        """Return the session's main process; once it has ended, no server may be started."""
        owner = read_pid_file(self.folder / "owner")
        if owner is None:
            raise HackError("the test session is over.")
        return owner

    @staticmethod
    def _require_packages() -> None:
        if missing := packages.missing():
            raise HackError(
                f"the tests need {' and '.join(missing)}.", next_step="run `make packages`, which installs them."
            )

    def _new_home(self, prefix: str) -> Path:
        return self.folder / f"{prefix}-{secrets.token_hex(4)}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self.folder / "lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    @contextmanager
    def _once(self, name: str, start: Callable[[], dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Yield what the first caller's start returned; if it failed, every caller fails at once."""
        saved = self.folder / f"{name}.json"
        failed = self.folder / f"{name}.failed"
        with self._lock():
            if failed.exists():
                raise HackError(failed.read_text())
            if not saved.exists():
                try:
                    facts = start()
                except HackError as error:
                    failed.write_text(str(error))
                    raise
                saved.touch(mode=0o600)
                saved.write_text(json.dumps(facts))
            yield json.loads(saved.read_text())


def _broker(home: Path) -> RabbitMQ:
    port, management_port, distribution_port, epmd_port = ports.choose(4)
    return RabbitMQ(
        home=home,
        port=port,
        management_port=management_port,
        distribution_port=distribution_port,
        epmd_port=epmd_port,
        password=secrets.token_hex(16),
        statistics_milliseconds=STATISTICS_MILLISECONDS,
    )

"""One private Postgres server: its data folder, its process, its two roles.

Shares no socket folder, port or cluster with the system's own Postgres.
"""

import re
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from hack.lib import ports
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack import postgres_data
from hack.stack.account import Account

ADMIN = "postgres"
OWNER = "dtq"
START_SECONDS = 60.0
COMMAND_SECONDS = 60.0
PACKAGED = Path("/usr/lib/postgresql")
# For data that can be lost: it survives a crash of the server, but not one of the machine.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


def binaries() -> Path | None:
    """The folder with the newest packaged server's programs, or of one on the PATH."""
    found = [path.parent for path in PACKAGED.glob("*/bin/postgres")]
    if found:
        return max(found, key=lambda path: [int(part) for part in re.findall(r"\d+", path.parent.name)])
    on_path = shutil.which("postgres")
    return Path(on_path).resolve().parent if on_path else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Postgres:
    """A server below `home`; `dtq` owns the database `dtq`, `postgres` is the administrator."""

    home: Path
    port: int
    password: str = field(repr=False)
    durable: bool = True
    connections_max: int = 100
    port_variable: str = "DTQ_POSTGRES_PORT"

    @property
    def log(self) -> Path:
        """The log of the server."""
        return self.home / "postgres.log"

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.home / "data"

    @property
    def process(self) -> Background:
        """The server's process; SIGINT is Postgres's fast shutdown, which does not wait for clients."""
        options = {
            "listen_addresses": ports.HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self.connections_max),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "jit": "off",
            **({} if self.durable else NOT_DURABLE),
        }
        flags = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return Background(
            name="Postgres",
            argv=self._account.command(str(self._program("postgres")), "-D", str(self.data), *flags),
            environ={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(self.home)},
            pid_file=self.home / "postgres.pid",
            log=self.log,
            stop_signal=signal.SIGINT,
        )

    @property
    def running(self) -> bool:
        """Whether the server's process is alive."""
        return self.process.running

    def dsn(self, database: str = OWNER, *, user: str = OWNER) -> str:
        """A connection URL."""
        return f"postgresql://{user}:{quote(self.password)}@{ports.HOST}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server; return when it answers. A missing data folder is created first."""
        process = self.process
        if not process.running:
            ports.require_free(self.port, name="Postgres", variable=self.port_variable)
            self._account.make_folder(self.home, mode=0o755)
            if self.data.exists():
                postgres_data.clear_after_crash(self.data)
            else:
                postgres_data.initialise(
                    self._account,
                    self.data,
                    initdb=self._program("initdb"),
                    administrator=ADMIN,
                    password=self.password,
                    durable=self.durable,
                    log=self.log,
                )
            process.start()
        if not wait_for(lambda: self.answers() or not process.running, timeout_seconds=START_SECONDS):
            raise HackError(
                f"Postgres runs but did not answer on port {self.port} in {START_SECONDS:g} s.", log=self.log
            )
        if not process.running:
            raise HackError(
                "Postgres ended while it started.",
                log=self.log,
                next_step="the log says why; `make destroy` starts over with an empty data folder.",
            )
        self._create_owner()

    def stop(self) -> None:
        """Stop the server; open connections are cut."""
        self.process.stop()

    def kill(self) -> None:
        """End every process of the server at once, as a crash would."""
        self.process.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server: connections stay open, requests get no answer."""
        self.process.pause()

    def resume(self) -> None:
        """Resume a frozen server."""
        self.process.resume()

    def destroy(self) -> None:
        """Stop the server and delete its data."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def answers(self) -> bool:
        """Return whether the server accepts connections."""
        ready = [str(self._program("pg_isready")), "-q", "-h", ports.HOST, "-p", str(self.port), "-t", "2"]
        return self.running and subprocess.run(ready, check=False).returncode == 0

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """Run a statement as the administrator; return the rows as plain text."""
        psql = [
            str(self._program("psql")),
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-f",
            "-",
            self.dsn(database, user=ADMIN),
        ]
        done = subprocess.run(
            psql, input=statement, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        if done.returncode:
            raise HackError(
                f"Postgres on port {self.port} refused: {done.stderr.strip()}",
                log=self.log,
                next_step="if its password was changed or lost, `make destroy` starts over.",
            )
        return done.stdout.strip()

    @property
    def _account(self) -> Account:
        return Account.packaged("postgres")

    def _program(self, name: str) -> Path:
        folder = binaries()
        if folder is None:
            raise HackError("Postgres is not installed.", next_step="run `make packages`, which installs it.")
        return folder / name

    def _create_owner(self) -> None:
        # Not a superuser, as in production: a missing right shows here first.
        if not self.sql("SELECT 1 FROM pg_roles WHERE rolname = 'dtq'"):
            self.sql(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{self.password}'")
        if not self.sql("SELECT 1 FROM pg_database WHERE datname = 'dtq'"):
            self.sql(f"CREATE DATABASE {OWNER} OWNER {OWNER}")

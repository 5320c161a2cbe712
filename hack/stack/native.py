"""The servers of the stack as private processes of this machine, with all their files in the stack's home folder."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

from hack.lib import report
from hack.lib.errors import HackError
from hack.stack import packages
from hack.stack.handover import become
from hack.stack.postgres import Postgres, binaries
from hack.stack.provider import Part
from hack.stack.rabbitmq import RabbitMQ
from hack.stack.settings import REACHABLE_HOME, Settings


class Native:
    """Postgres and RabbitMQ from the distribution's packages."""

    name = "native"

    def __init__(self, settings: Settings) -> None:
        """Keep the settings of both servers; nothing is started."""
        self.settings = settings
        ports = settings.ports
        self.postgres = Postgres(
            home=settings.home / "postgres", port=ports["postgres"], password=settings.postgres_password
        )
        self.rabbitmq = RabbitMQ(
            home=settings.home / "rabbitmq",
            port=ports["rabbitmq"],
            management_port=ports["management"],
            distribution_port=ports["distribution"],
            epmd_port=ports["epmd"],
            password=settings.rabbitmq_password,
        )

    def start(self) -> None:
        """Install what is missing, then start both servers side by side."""
        packages.ensure(self.settings.log_folder / "apt.log")
        if self.postgres.answers() and self.rabbitmq.answers():
            report.say("==> Postgres and RabbitMQ run already")
            return
        with report.step("Starting Postgres and RabbitMQ (private instances)"):
            _both(self.postgres.start, self.rabbitmq.start)

    def stop(self) -> None:
        """Stop both; the data stays."""
        if not packages.missing():
            _both(self.postgres.stop, self.rabbitmq.stop)

    def destroy(self) -> None:
        """Stop both and delete their data."""
        if not packages.missing():
            _both(self.postgres.destroy, self.rabbitmq.destroy)
        for name in ("postgres", "rabbitmq"):
            shutil.rmtree(self.settings.home / name, ignore_errors=True)
        if self.settings.home != self.settings.state:
            shutil.rmtree(self.settings.home, ignore_errors=True)
            if REACHABLE_HOME.exists() and not any(REACHABLE_HOME.iterdir()):
                REACHABLE_HOME.rmdir()

    def parts(self) -> list[Part]:
        """Return the servers for `make ps`."""
        if packages.missing():
            return []
        return [
            Part("Postgres", self.postgres.port, self.postgres.process.identity, self.postgres.answers()),
            Part("RabbitMQ", self.rabbitmq.port, self.rabbitmq.process.identity, self.rabbitmq.answers()),
        ]

    def logs(self) -> list[Path]:
        """The servers' log files."""
        return [self.postgres.log, self.rabbitmq.log]

    def database_shell(self, arguments: list[str]) -> NoReturn:
        """Turn into psql, connected to the database."""
        folder = binaries()
        if folder is None or not self.postgres.running:
            raise HackError("Postgres does not run.", next_step="`make up`.")
        # Every user of the machine could read a password on the command line.
        environ = {**os.environ, "PGPASSWORD": self.postgres.password}
        target = ["-h", "127.0.0.1", "-p", str(self.postgres.port), "-U", "dtq", "-d", "dtq"]
        become(folder / "psql", *target, *arguments, environ=environ)


def _both(*actions: Callable[[], None]) -> None:
    """Run the actions side by side, wait for all, then raise the first failure."""
    with ThreadPoolExecutor(len(actions)) as pool:
        running = [pool.submit(action) for action in actions]
    for done in running:
        done.result()

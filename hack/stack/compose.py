"""The servers of the stack as containers, described by hack/compose.yaml.

This provider is chosen only if the engine answers and the images can be had.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import yaml

from hack.lib import ports, report
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack.handover import become
from hack.stack.management import Management
from hack.stack.provider import Part
from hack.stack.rabbitmq import USER
from hack.stack.settings import PORTS, ROOT, Settings

FILE = ROOT / "hack" / "compose.yaml"
PROBE_SECONDS = 20.0
PULL_SECONDS = 600.0
WAIT_SECONDS = 120
PUBLISHED = ("postgres", "rabbitmq", "management")
OWNER_SQL = """\
SELECT 'CREATE ROLE dtq LOGIN' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'dtq') \\gexec
ALTER ROLE dtq PASSWORD '{password}';
SELECT 'CREATE DATABASE dtq OWNER dtq' WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'dtq') \\gexec
"""


def obstacle() -> str | None:
    """Return why containers cannot be used here, or None."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    for command, reason in (
        (["docker", "info"], "no Docker engine answers"),
        (["docker", "compose", "version"], "docker has no compose plug-in"),
    ):
        if not _succeeds(command):
            return reason
    images = [service["image"] for service in yaml.safe_load(FILE.read_text())["services"].values()]
    for image in images:
        here = _succeeds(["docker", "image", "inspect", image])
        if not here and not _succeeds(["docker", "manifest", "inspect", image]):
            return f"the image {image} is not here and cannot be pulled"
    return None


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


class Compose:
    """Postgres and RabbitMQ as containers."""

    name = "compose"

    def __init__(self, settings: Settings) -> None:
        """Keep the settings; nothing is started."""
        self.settings = settings
        self.log = settings.log_folder / "compose.log"

    def start(self) -> None:
        """Start both containers and wait until they are healthy."""
        if not self._running():
            for name in PUBLISHED:
                ports.require_free(self.settings.ports[name], name=name, variable=PORTS[name][0])
        with report.step("Starting Postgres and RabbitMQ (containers)"):
            self._compose("up", "--detach", "--wait", "--wait-timeout", str(WAIT_SECONDS), seconds=PULL_SECONDS)
            owner = OWNER_SQL.format(password=self.settings.postgres_password)
            self._compose("exec", "-T", "postgres", "psql", "-XqU", "postgres", "-f", "-", text=owner)
            if not wait_for(self._broker_answers, timeout_seconds=WAIT_SECONDS):
                raise HackError("RabbitMQ's container does not answer.", log=self.log)

    def stop(self) -> None:
        """Stop and remove the containers; the volumes stay."""
        self._compose("down", "--timeout", "20")

    def destroy(self) -> None:
        """Remove the containers and their volumes."""
        self._compose("down", "--timeout", "5", "--volumes")

    def parts(self) -> list[Part]:
        """Return the containers for `make ps`."""
        running = self._running()
        return [
            Part(f"{name} (container)", self.settings.ports[name], None, name in running)
            for name in ("postgres", "rabbitmq")
        ]

    def logs(self) -> list[Path]:
        """Return no files: `docker compose logs` shows the logs of the servers."""
        return [self.log]

    def database_shell(self, arguments: list[str]) -> NoReturn:
        """Turn into psql in the container, connected to the database."""
        if "postgres" not in self._running():
            raise HackError("Postgres does not run.", next_step="`make up`.")
        shell = ["exec", "postgres", "psql", "-U", "dtq", "-d", "dtq", *arguments]
        become(*self._command(), *shell, environ=self._environ())

    def _command(self) -> list[str]:
        return ["docker", "compose", "--project-name", f"dtq-{self.settings.key}", "--file", str(FILE)]

    def _environ(self) -> dict[str, str]:
        chosen = {PORTS[name][0]: str(self.settings.ports[name]) for name in PUBLISHED}
        return {
            **os.environ,
            **chosen,
            "DTQ_POSTGRES_PASSWORD": self.settings.postgres_password,
            "DTQ_RABBITMQ_PASSWORD": self.settings.rabbitmq_password,
        }

    def _compose(self, *arguments: str, text: str = "", seconds: float = 120.0) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            done = subprocess.run(
                [*self._command(), *arguments],
                env=self._environ(),
                input=text,
                text=True,
                stdout=log,
                stderr=log,
                timeout=seconds,
                check=False,
            )
        if done.returncode:
            raise HackError(
                f"`docker compose {arguments[0]}` failed.",
                log=self.log,
                next_step="see the log; `make up PROVIDER=native` uses the distribution's packages instead.",
            )

    def _running(self) -> list[str]:
        listing = [*self._command(), "ps", "--services", "--status", "running"]
        done = subprocess.run(
            listing, env=self._environ(), capture_output=True, text=True, timeout=PROBE_SECONDS, check=False
        )
        return done.stdout.split()

    def _broker_answers(self) -> bool:
        url = f"http://{ports.HOST}:{self.settings.ports['management']}"
        try:
            Management(url=url, user=USER, password=self.settings.rabbitmq_password).call("GET", "/api/overview")
        except (OSError, HackError):
            return False
        return True

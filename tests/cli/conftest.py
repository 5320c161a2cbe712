"""The command `dtq` as a person runs it: a process with an environment, an exit code and an output."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.addresses import BrokerVhost
from tests.support.system import completed, dtq_command

COMMAND_SECONDS = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str


@dataclass(slots=True, kw_only=True)
class Dtq:
    """The command with an environment of its own."""

    environ: dict[str, str]
    folder: Path

    async def __call__(self, *args: str, stdin: str = "", environ: Mapping[str, str] | None = None) -> Done:
        """Run the command to its end."""
        environ = {"PATH": "/usr/bin:/bin", "COLUMNS": "100", **(self.environ if environ is None else environ)}
        command = dtq_command(*args)
        done = await asyncio.to_thread(
            completed, command, environ, stdin=stdin, folder=self.folder, seconds=COMMAND_SECONDS
        )
        return Done(code=done.returncode, out=done.stdout, err=done.stderr)

    def write(self, name: str, text: str) -> str:
        """Write a file and return its path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return str(path)


@pytest.fixture
def dtq(dsn: str, broker_vhost: BrokerVhost, tmp_path: Path) -> Dtq:
    """The command beside a fresh database and virtual host."""
    return Dtq(environ=broker_vhost.environ(dsn), folder=tmp_path)


@pytest.fixture
def dtq_alone(tmp_path: Path) -> Dtq:
    """The command without any service: nothing listens on the port of the discard service."""
    environ = {
        "DB_DSN": "postgresql://dtq:hunter2@127.0.0.1:9/dtq",
        "RMQ_USER": "dtq",
        "RMQ_PASS": "hunter2",
        "RMQ_HOST": "127.0.0.1",
        "RMQ_PORT": "9",
    }
    return Dtq(environ=environ, folder=tmp_path)

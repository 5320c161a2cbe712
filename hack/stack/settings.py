"""What the stack remembers: folders, ports, passwords, provider; and the environment for dtq.

Passwords are never shown, or written to a file that others can read.
"""

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hack.lib.errors import HackError
from hack.lib.files import exclusive, write_private
from hack.lib.ports import HOST
from hack.stack.postgres import OWNER
from hack.stack.rabbitmq import USER

ROOT = Path(__file__).resolve().parents[2]
REACHABLE_HOME = Path("/var/lib/dtq")
PORT_MAX = 65_535
# Variable of the environment (or of make) and default, by the port's name.
PORTS = {
    "postgres": ("DTQ_POSTGRES_PORT", 55432),
    "rabbitmq": ("DTQ_RABBITMQ_PORT", 55672),
    "management": ("DTQ_RABBITMQ_MANAGEMENT_PORT", 55673),
    "distribution": ("DTQ_RABBITMQ_DISTRIBUTION_PORT", 55674),
    "epmd": ("DTQ_EPMD_PORT", 55675),
    "api": ("DTQ_API_PORT", 8080),
    "worker": ("DTQ_WORKER_PORT", 8081),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One local stack."""

    state: Path
    home: Path
    ports: Mapping[str, int]
    postgres_password: str = field(repr=False)
    rabbitmq_password: str = field(repr=False)
    provider: str = ""

    @classmethod
    def load(cls, environ: Mapping[str, str], *, forgiving: bool = False) -> "Settings":
        """Return the saved settings, with the ports that the environment names.

        If `forgiving`, damaged settings count as missing: that is enough to delete the stack.
        """
        state = Path(environ.get("DTQ_STATE") or ROOT / ".dtq").absolute()
        home = _servers_home(state)
        try:
            saved = _read(home / "stack.json")
        except HackError:
            if not forgiving:
                raise
            (home / "stack.json").unlink()
            saved = {}
        ports = {name: default for name, (_, default) in PORTS.items()} | saved.get("ports", {})
        ports |= {
            name: _port(variable, environ[variable]) for name, (variable, _) in PORTS.items() if environ.get(variable)
        }
        twice = {port for port in ports.values() if list(ports.values()).count(port) > 1}
        if twice:
            raise HackError(f"port {min(twice)} is given to two parts of the stack.", next_step="give each its own.")
        return cls(
            state=state,
            home=home,
            ports=ports,
            postgres_password=saved.get("postgres_password") or secrets.token_hex(16),
            rabbitmq_password=saved.get("rabbitmq_password") or secrets.token_hex(16),
            provider=saved.get("provider", ""),
        )

    @property
    def saved_ports(self) -> Mapping[str, int] | None:
        """Return the ports of the last `up`; None if there was none."""
        ports: Mapping[str, int] | None = _read(self.home / "stack.json").get("ports")
        return ports

    def with_ports(self, ports: Mapping[str, int]) -> "Settings":
        """Return the same stack on other ports."""
        return replace(self, ports=ports)

    def save(self, provider: str) -> None:
        """Save the settings, and write the environment for processes and shells."""
        for folder in (self.state, self.home):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        facts = {
            "ports": dict(self.ports),
            "postgres_password": self.postgres_password,
            "rabbitmq_password": self.rabbitmq_password,
            "provider": provider,
        }
        write_private(self.home / "stack.json", json.dumps(facts, indent=2) + "\n")
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in self.environ.items()]
        write_private(self.state / "env", "".join(lines))

    @property
    def environ(self) -> dict[str, str]:
        """The environment of dtq's processes."""
        return {
            "DB_DSN": f"postgresql://{OWNER}:{self.postgres_password}@{HOST}:{self.ports['postgres']}/{OWNER}",
            "RMQ_USER": USER,
            "RMQ_PASS": self.rabbitmq_password,
            "RMQ_HOST": HOST,
            "RMQ_PORT": str(self.ports["rabbitmq"]),
            "RMQ_VHOST": "/",
            "RMQ_NAMESPACE": "tasks",
            "QUEUES": "high,default",
            "HTTP_PORT": f"{HOST}:{self.ports['api']}",
            "WORKER_HTTP_PORT": f"{HOST}:{self.ports['worker']}",
            "WORKER_HANDLERS": "dtq_worker.demo",
        }

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep two commands from changing the stack at the same time."""
        self.state.mkdir(parents=True, exist_ok=True)
        self.state.chmod(0o755)
        with exclusive(self.state, "this stack"):
            yield

    @property
    def log_folder(self) -> Path:
        """The folder for the logs of our own processes."""
        return self.state / "log"

    @property
    def key(self) -> str:
        """The part of a machine-wide name that identifies the stack of this checkout."""
        return _key(self.state)


def _servers_home(state: Path) -> Path:
    """The folder for the servers' data, outside root's private folders, which a server's user cannot enter."""
    if os.geteuid() != 0:
        return state
    existing = [folder for folder in (state, *state.parents) if folder.exists()]
    if all(folder.stat().st_mode & 0o001 for folder in existing):
        return state
    return REACHABLE_HOME / _key(state)


def _key(state: Path) -> str:
    return hashlib.sha256(str(state).encode()).hexdigest()[:12]


def _port(variable: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= PORT_MAX:
        raise HackError(f"{variable}={text!r} is not a port.", next_step=f"a number from 1 to {PORT_MAX}.")
    return int(text)


def _read(path: Path) -> dict[str, Any]:
    try:
        facts: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise HackError(f"{path} is damaged: {error}.", next_step="`make destroy`, then `make up`.") from error
    return facts

"""The interface that both providers of the servers implement."""

from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

from hack.lib.processes import Identity


@dataclass(frozen=True, slots=True)
class Part:
    """One line of `make ps`."""

    name: str
    port: int
    process: Identity | None
    healthy: bool


class Provider(Protocol):
    """Brings Postgres and RabbitMQ to the ports that the settings name."""

    name: str

    def start(self) -> None:
        """Start both servers; return when both answer. Safe to repeat."""

    def stop(self) -> None:
        """Stop both servers; the data stays."""

    def destroy(self) -> None:
        """Stop both servers and delete their data."""

    def parts(self) -> list[Part]:
        """Return the servers for `make ps`."""
        ...

    def logs(self) -> list[Path]:
        """Return the existing log files."""
        ...

    def database_shell(self, arguments: list[str]) -> NoReturn:
        """Turn into an SQL shell on the database."""
        ...

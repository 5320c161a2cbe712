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
        """Both servers answer when this returns. Safe to repeat."""

    def stop(self) -> None:
        """Nothing runs any more; the data stays."""

    def destroy(self) -> None:
        """Nothing runs any more, nothing is kept."""

    def parts(self) -> list[Part]:
        """What runs, for people."""
        ...

    def logs(self) -> list[Path]:
        """The log files there are."""
        ...

    def database_shell(self, arguments: list[str]) -> NoReturn:
        """Become an SQL shell on the database."""
        ...

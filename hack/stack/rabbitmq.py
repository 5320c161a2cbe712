"""One private RabbitMQ server: its node, its port mapper (epmd), its user.

Shares no name, port, cookie, plug-in list or folder with the system's own RabbitMQ.
"""

import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from hack.lib import ports
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack import rabbitmq_files
from hack.stack.account import Account
from hack.stack.management import Management

USER = "dtq"
START_SECONDS = 90.0
EPMD_SECONDS = 10.0
PACKAGED = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
AMQP_HEADER = b"AMQP\x00\x00\x09\x01"
METHOD_FRAME = b"\x01"


def program() -> Path | None:
    """The packaged server's start script, or one on the PATH."""
    if PACKAGED.exists():
        return PACKAGED
    on_path = shutil.which("rabbitmq-server")
    return Path(on_path) if on_path else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMQ:
    """A broker below `home`, with the management plug-in; its one user is `dtq`."""

    home: Path
    port: int
    management_port: int
    distribution_port: int
    epmd_port: int
    password: str = field(repr=False)
    statistics_milliseconds: int = 5000

    @property
    def log(self) -> Path:
        """The log of the broker."""
        return self.home / "rabbitmq.log"

    @property
    def epmd(self) -> Background:
        """The port mapper. We start it ourselves to be able to end it: Erlang would leave it running."""
        return Background(
            name="epmd",
            argv=self._account.command("epmd", "-address", ports.HOST, "-port", str(self.epmd_port)),
            environ={"PATH": "/usr/bin:/bin"},
            pid_file=self.home / "epmd.pid",
            log=self.home / "epmd.log",
        )

    @property
    def process(self) -> Background:
        """The broker's process."""
        start = program()
        if start is None:
            raise HackError("RabbitMQ is not installed.", next_step="run `make packages`, which installs it.")
        return Background(
            name="RabbitMQ",
            argv=self._account.command(str(start)),
            environ=self.environ,
            pid_file=self.home / "rabbitmq.pid",
            log=self.log,
            stop_seconds=30.0,
        )

    @property
    def environ(self) -> dict[str, str]:
        """The whole environment of the broker; rabbitmqctl works with the same one."""
        return rabbitmq_files.environ(
            self.home,
            port=self.port,
            distribution_port=self.distribution_port,
            epmd_port=self.epmd_port,
        )

    @property
    def running(self) -> bool:
        """Whether the broker's process is alive."""
        return self.process.running

    @property
    def management(self) -> Management:
        """The management interface, as the broker's user."""
        return Management(url=f"http://{ports.HOST}:{self.management_port}", user=USER, password=self.password)

    def control(self, *arguments: str) -> tuple[str, ...]:
        """The command line of rabbitmqctl for this broker; it runs in `environ`."""
        start = program()
        if start is None:
            raise HackError("RabbitMQ is not installed.", next_step="run `make packages`, which installs it.")
        return self._account.command(str(start.with_name("rabbitmqctl")), *arguments)

    def url(self, vhost: str = "/") -> str:
        """A connection URL."""
        return f"amqp://{USER}:{quote(self.password)}@{ports.HOST}:{self.port}/{quote(vhost, safe='')}"

    def start(self) -> None:
        """Start the broker; return when it accepts connections."""
        process = self.process
        if not process.running:
            self._require_ports()
            rabbitmq_files.write(
                self._account,
                self.home,
                user=USER,
                password=self.password,
                port=self.port,
                management_port=self.management_port,
                statistics_milliseconds=self.statistics_milliseconds,
            )
            self.epmd.start()
            if not wait_for(lambda: ports.accepts(self.epmd_port), timeout_seconds=EPMD_SECONDS):
                raise HackError(f"epmd did not listen on port {self.epmd_port}.", log=self.epmd.log)
            process.start()
        if not wait_for(lambda: self.answers() or not process.running, timeout_seconds=START_SECONDS, poll_seconds=0.2):
            raise HackError(f"RabbitMQ runs but did not answer in {START_SECONDS:g} s.", log=self.log)
        if not process.running:
            self.epmd.stop()
            raise HackError(
                "RabbitMQ ended while it started.",
                log=self.log,
                next_step="the log says why; `make destroy` starts over with an empty data folder.",
            )

    def stop(self) -> None:
        """Stop the broker and its port mapper."""
        self.process.stop()
        self.epmd.stop()

    def kill(self) -> None:
        """End every process of the broker at once, as a crash would."""
        self.process.kill()
        self.epmd.kill()

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the broker: connections stay open, requests get no answer."""
        self.process.pause()

    def resume(self) -> None:
        """Resume a frozen broker."""
        self.process.resume()

    def destroy(self) -> None:
        """Stop the broker and delete its data."""
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)

    def answers(self) -> bool:
        """Return whether the broker answers AMQP and its management interface accepts our user."""
        if not self.running:
            return False
        try:
            with socket.create_connection((ports.HOST, self.port), timeout=2) as link:
                link.sendall(AMQP_HEADER)
                if link.recv(1) != METHOD_FRAME:
                    return False
            self.management.call("GET", "/api/overview")
        except (OSError, HackError):
            return False
        return True

    @property
    def _account(self) -> Account:
        return Account.packaged("rabbitmq")

    def _require_ports(self) -> None:
        for name, port, variable in (
            ("RabbitMQ", self.port, "DTQ_RABBITMQ_PORT"),
            ("RabbitMQ's management interface", self.management_port, "DTQ_RABBITMQ_MANAGEMENT_PORT"),
            ("RabbitMQ's Erlang distribution", self.distribution_port, "DTQ_RABBITMQ_DISTRIBUTION_PORT"),
        ):
            ports.require_free(port, name=name, variable=variable)
        if not self.epmd.running:
            ports.require_free(self.epmd_port, name="RabbitMQ's epmd", variable="DTQ_EPMD_PORT")

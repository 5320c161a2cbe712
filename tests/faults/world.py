"""One complete system to break: its own servers, proxies in front of them, two APIs and two workers.

A process that ends without being told to is started again and recorded.
"""

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from dtq.runtime.loops import wait
from hack.lib import processes
from hack.lib.errors import HackError
from hack.stack.postgres import Postgres
from hack.stack.rabbitmq import RabbitMQ
from tests.faults.history import Exit
from tests.faults.proxy import Proxy
from tests.faults.schedule import GROUPS, LINKS, PROCESSES
from tests.support.addresses import free_address, vhost_of
from tests.support.handlers import WALL_VARIABLE
from tests.support.services import Services
from tests.support.system import Process, System, opened

VHOST: Final = "faults"
QUEUES: Final = ("high", "default")
WATCH_SECONDS: Final = 0.5
"""How often ended processes are looked for, in seconds."""
TAIL_CHARS: Final = 3_000
"""How much of a log is shown when its process ended badly, in characters."""

MANIFESTS: Final = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: high}, {name: default}]
  retry: {delaysSeconds: [1, 2]}
"""
TYPE_MANIFEST: Final = """---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {{name: {name}}}
spec: {{maxAttempts: {max_attempts}, timeoutSeconds: 20, backoff: {{delaysSeconds: {delays}}}}}
"""
DELAYS_SECONDS: Final = (1, 2)
"""Delays between the attempts of every type, in seconds; the last one repeats."""
MAX_ATTEMPTS: Final = {
    "fault.ok.v1": 10,
    "fault.flaky.v1": 10,
    "fault.fail.v1": 2,
    "fault.slow.v1": 10,
    "fault.thread.v1": 10,
    "fault.process.v1": 10,
}
"""Task types of the load; each handler is in `tests.support.fault_handlers`."""


@dataclass(kw_only=True)
class Member:
    """A process that should always run.

    Attributes:
        told: it was ended by a fault, which will start it again.
        clock_seconds: how far its clock is off.
    """

    name: str
    address: str
    process: Process
    told: bool = False
    clock_seconds: float = 0.0


@dataclass(kw_only=True)
class World:
    """Everything that a schedule may break.

    Attributes:
        crashed: what ended without being told to, or badly, with the end of its log: each is a bug.
        exits: every process that ended during this run.
        queues_made_at: when queues were last lost on purpose, and had to be made again, by the monotonic clock.
    """

    folder: Path
    postgres: Postgres
    rabbitmq: RabbitMQ
    proxies: dict[str, Proxy]
    system: System
    members: dict[str, Member] = field(default_factory=dict)
    crashed: list[str] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    queues_made_at: float = -math.inf
    _log_starts: dict[Path, int] = field(default_factory=dict)
    _locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def start(self, name: str, *, clock_seconds: float = 0.0) -> None:
        """Start a process, at the address that it always has."""
        kind = name.split("-", maxsplit=1)[0]
        member = self.members.get(name)
        address = member.address if member else free_address()
        environ = {
            "DB_DSN": self.dsn_through(self.proxies[f"{kind}.postgres"].port),
            "RMQ_PORT": str(self.proxies[f"{kind}.amqp"].port),
            **(clock_environ(clock_seconds) if clock_seconds else {}),
        }
        process = self.system.start(kind, address=address, **environ)
        # If the run is killed, the guard ends every process that has a pid file.
        if identity := processes.identify(process.popen.pid):
            (self.folder / f"{name}.pid").write_text(f"{identity}\n")
        self.members[name] = Member(name=name, address=address, process=process, clock_seconds=clock_seconds)

    def begin(self) -> None:
        """Begin a run: forget what happened before it."""
        self.crashed.clear()
        self.exits.clear()
        self._log_starts = {process.log: process.log.stat().st_size for process in self.system.processes}

    def logs(self) -> Iterator[tuple[str, bytes]]:
        """Yield what the processes logged during this run, by file name."""
        for process in self.system.processes:
            with process.log.open("rb") as log:
                log.seek(self._log_starts.get(process.log, 0))
                if text := log.read():
                    yield process.log.name, text

    async def end(self, name: str, told: Literal["kill", "term"]) -> None:
        """End a process: at once, or as Kubernetes does. The caller starts it again."""
        member = self.members[name]
        member.told = True
        began = time.monotonic()
        if told == "kill":
            member.process.kill()
        else:
            code = await asyncio.to_thread(member.process.terminate)
            if code == -signal.SIGTERM and not member.process.log.stat().st_size:
                told = "kill"  # it had not begun: Python was still loading it
            elif code:
                self.crashed.append(f"{name} ended with {code} after SIGTERM, not with 0:\n{_tail(member)}")
        self._ended(member, told, time.monotonic() - began)

    def _ended(self, member: Member, told: Literal["kill", "term", ""], seconds: float) -> None:
        popen = member.process.popen
        self.exits.append(
            Exit(at=time.time(), process=member.name, pid=popen.pid, told=told, code=popen.returncode, seconds=seconds)
        )

    def dsn_through(self, port: int) -> str:
        """Return the URL of the database behind a port."""
        return self.postgres.dsn().replace(f":{self.postgres.port}/", f":{port}/")

    @asynccontextmanager
    async def held(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Keep other faults off these processes or servers meanwhile."""
        async with AsyncExitStack() as stack:
            for name in sorted(set(names)):
                await stack.enter_async_context(self._locks.setdefault(name, asyncio.Lock()))
            yield

    def look_after(self) -> None:
        """Start every process that ended on its own again, as Kubernetes would, and record it."""
        for name, member in list(self.members.items()):
            code = member.process.popen.poll()
            if code is not None and not member.told:
                self.crashed.append(f"{name} ended by itself with {code}:\n{_tail(member)}")
                self._ended(member, "", 0.0)
                self.start(name, clock_seconds=member.clock_seconds)

    async def watch(self) -> None:
        """Look after the processes until cancelled."""
        while True:
            self.look_after()
            await wait(asyncio.Event(), WATCH_SECONDS)


def _tail(member: Member) -> str:
    return member.process.log.read_text(errors="replace")[-TAIL_CHARS:]


def targets(name: str) -> tuple[str, ...]:
    """Return the processes that a fault's target names."""
    return GROUPS.get(name, (name,))


def links(pattern: str) -> tuple[str, ...]:
    """Return the links that a fault's target names; * stands for either side."""
    wanted = pattern.split(".")
    return tuple(
        link for link in LINKS if all(want in ("*", part) for want, part in zip(wanted, link.split("."), strict=True))
    )


def clock_environ(offset_seconds: float) -> dict[str, str]:
    """Return the environment in which the wall clock is off; the monotonic clock stays, as it does in the world."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
    if library is None:
        raise HackError("faketime is not installed.", next_step="run `make packages`, which installs it.")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{offset_seconds:+g}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }


@asynccontextmanager
async def running_world(services: Services, folder: Path) -> AsyncIterator[World]:
    """Yield a world whose processes are ready; it carries many schedules, and ends with the block."""
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with AsyncExitStack() as stack:
        world = await _world(services, folder, stack)
        # One after the other: on a busy machine four at once take longer than each of them may.
        for name in PROCESSES:
            world.start(name)
            await world.members[name].process.ready()
        yield world


async def _world(services: Services, folder: Path, stack: AsyncExitStack) -> World:
    postgres, rabbitmq = await asyncio.gather(
        asyncio.to_thread(services.new_postgres), asyncio.to_thread(services.new_rabbitmq)
    )
    stack.push_async_callback(asyncio.to_thread, postgres.destroy)
    stack.push_async_callback(asyncio.to_thread, rabbitmq.destroy)
    await asyncio.to_thread(rabbitmq.management.create_vhost, VHOST)
    servers = {"postgres": postgres.port, "amqp": rabbitmq.port}
    proxies = {link: await stack.enter_async_context(Proxy("127.0.0.1", servers[link.split(".")[1]])) for link in LINKS}
    system = stack.enter_context(
        opened(
            folder,
            postgres.dsn(),
            vhost_of(rabbitmq, VHOST),
            QUEUES=",".join(QUEUES),
            WORKER_HANDLERS="tests.support.fault_handlers",
            WORKER_CONCURRENCY="16",
            **{WALL_VARIABLE: repr(time.time() - time.monotonic())},
        )
    )
    await asyncio.to_thread(system.run, "migrate")
    types = "".join(
        TYPE_MANIFEST.format(name=name, max_attempts=most, delays=list(DELAYS_SECONDS))
        for name, most in MAX_ATTEMPTS.items()
    )
    await asyncio.to_thread(lambda: system.run("apply", "-f", "-", stdin=MANIFESTS + types))
    return World(folder=folder, postgres=postgres, rabbitmq=rabbitmq, proxies=proxies, system=system)

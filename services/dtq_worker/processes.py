"""Child processes for CPU-bound handlers and for those that may crash, which must be killable.

A child serves one task type: it runs one task at a time, is kept for the next task of its type, and is killed on
timeout and cancel. Of a child's answer only its shape and the nonce of its run are trusted.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self, cast

import msgspec
import structlog

from dtq.handlers import Context
from dtq_worker import orphans
from dtq_worker.child_protocol import RunRequest, RunResult
from dtq_worker.secret_environ import SECRETS

LINE_BYTES_MAX: Final = 16 * 1_048_576
"""Longest line of the protocol, in bytes: a payload and a result fit, a flood does not."""
NONCE_BYTES: Final = 16
"""The random bytes of a nonce: too many for code of an earlier run to guess the nonce of the next one."""
LAST_WORDS_SECONDS: Final = 0.5
"""How long the answer of an ended process may take to arrive through its pipe, in seconds."""
REAP_SECONDS: Final = 1.0
"""How long the processes of a killed child may take to end, in seconds."""

_log = structlog.get_logger(__name__)


class ChildError(Exception):
    """The handler's exception, or how the child ended; `was_killed`: by a SIGKILL that this worker did not send."""

    def __init__(self, result: RunResult, *, was_killed: bool = False) -> None:
        super().__init__(result.error)
        self.result = result
        self.was_killed = was_killed


class Processes:
    """A pool of children that grows with demand. An idle child of another type makes room for a new one.

    Args:
        modules: the handler modules that a child imports.
        children_max: how many children may live at the same time: the worker's concurrency, so that each run gets one.
    """

    def __init__(self, modules: Sequence[str], *, children_max: int) -> None:
        self._modules = tuple(modules)
        self._children_max = children_max
        # A copy: a handler in a thread may change the environment of the whole worker.
        # Without secrets: a child needs none of the worker's.
        self._environ = {name: value for name, value in os.environ.items() if name not in SECRETS}
        self._folder = Path.cwd()
        self._idle: list[Child] = []  # the one that has been idle longest comes first
        self._busy: set[Child] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._runs = 0

    async def run(self, type_: str, payload: str, context: Context) -> Any:
        """Run a handler in a child; return its value.

        Raises:
            ChildError: the handler raised, or the child died.
        """
        self._runs += 1
        try:
            nonce = secrets.token_hex(NONCE_BYTES)
            request = RunRequest(nonce=nonce, payload=msgspec.Raw(payload.encode()), context=context)
            answer = await self._run(type_, request)
        finally:
            self._runs -= 1
        if answer.error is not None:
            raise ChildError(answer)
        return answer.value

    async def close(self) -> None:
        """End every child."""
        children = [*self._idle, *self._busy]
        self._idle.clear()
        for child in children:
            await child.kill()
        await asyncio.gather(*self._ending)

    async def _run(self, type_: str, request: RunRequest) -> RunResult:
        child = await self._child(type_)
        self._busy.add(child)
        try:
            answer = await child.ask(request)
            if answer.left:
                task_id = str(request.context.task_id)
                _log.info("child process replaced", type=type_, task_id=task_id, left=answer.left)
                await child.kill()
        except BaseException:
            await child.kill()
            raise
        finally:
            self._busy.discard(child)
        if not answer.left:
            self._idle.append(child)
        return answer

    async def _child(self, type_: str) -> "Child":
        while (child := self._take_idle(type_)) is not None:
            if not child.exited.done() and not child.has_unread:
                return child
            await child.kill()
        while self._idle and len(self._idle) + self._runs > self._children_max:
            await self._idle.pop(0).kill()
        command = [sys.executable, "-m", "dtq_worker.child", type_, *self._modules]
        child = await Child.start(type_, command, self._environ, self._folder)
        child.exited.add_done_callback(lambda _: self._on_exit(child))
        return child

    def _on_exit(self, child: "Child") -> None:
        """End what an idle child left behind when it ended."""
        if child in self._idle:
            self._idle.remove(child)
            ending = asyncio.create_task(child.kill())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    def _take_idle(self, type_: str) -> "Child | None":
        """Return the child of a type that became idle last, if there is one."""
        for index in range(len(self._idle) - 1, -1, -1):
            if self._idle[index].type == type_:
                return self._idle.pop(index)
        return None


class Child:
    """One child process, the task type that it serves, and the two pipes to it."""

    def __init__(self, type_: str, transport: asyncio.SubprocessTransport, protocol: "_Protocol") -> None:
        self.type = type_
        self._transport = transport
        self._process = asyncio.subprocess.Process(transport, protocol, asyncio.get_running_loop())
        self._protocol = protocol
        self.exited = protocol.exited

    @property
    def has_unread(self) -> bool:
        """Whether the child has written more than its answers: that cannot be an answer to a later request."""
        return self._protocol.unread_bytes > 0

    @classmethod
    async def start(cls, type_: str, command: Sequence[str], environ: Mapping[str, str], folder: Path) -> Self:
        """Start a child that leads a session of its own."""
        transport, protocol = await asyncio.get_running_loop().subprocess_exec(
            _Protocol,
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=None,
            env=environ,
            cwd=folder,
            start_new_session=True,
        )
        orphans.living_children.add(transport.get_pid())
        return cls(type_, transport, protocol)

    async def ask(self, order: RunRequest) -> RunResult:
        """Send a request to the child; return its answer.

        The end of the process counts, not only the end of the pipe: a process that it forked may hold the pipe open.

        Raises:
            ChildError: the child died, or its answer is malformed or not for this request.
        """
        talk = asyncio.ensure_future(self._talk(order))
        try:
            both: list[asyncio.Future[Any]] = [talk, self.exited]
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if not talk.done():
                await asyncio.wait([talk], timeout=LAST_WORDS_SECONDS)
            line = talk.result() if talk.done() else b""
        except (ConnectionError, ValueError) as error:
            raise ChildError(RunResult(error=f"the handler's process ended: {error}")) from error
        finally:
            talk.cancel()
        if not line.endswith(b"\n"):
            code = await self.exited
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            ended = RunResult(error=f"the handler's process ended with {how}")
            raise ChildError(ended, was_killed=code == -signal.SIGKILL)
        try:
            answer = msgspec.json.decode(line, type=RunResult)
        except msgspec.DecodeError as error:
            wrong = RunResult(error=f"the handler's process sent an invalid answer: {error}", permanent=True)
            raise ChildError(wrong) from error
        if answer.nonce != order.nonce:
            raise ChildError(RunResult(error="the handler's process sent an answer that is not for this run"))
        return answer

    async def kill(self) -> None:
        """Kill the child and every process that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.wait([self.exited])
        orphans.living_children.discard(self._process.pid)
        with suppress(TimeoutError):
            async with asyncio.timeout(REAP_SECONDS):
                while orphans.kill():  # noqa: ASYNC110 - only the kernel knows
                    await asyncio.sleep(REAP_SECONDS / 100)
        self._transport.close()  # close the pipes too: a process that could not be killed may hold their other ends

    async def _talk(self, order: RunRequest) -> bytes:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(order) + b"\n")
        await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        self._protocol.unread_bytes -= len(line)
        return line


class _Protocol(asyncio.subprocess.SubprocessStreamProtocol):
    """The streams of a child, and its end.

    `Process.wait` of asyncio does not return while any process holds the pipes open.
    """

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(limit=LINE_BYTES_MAX, loop=loop)
        self._child: asyncio.SubprocessTransport | None = None
        self.exited: asyncio.Future[int] = loop.create_future()
        self.unread_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport, which knows the exit code."""
        self._child = cast("asyncio.SubprocessTransport", transport)  # uvloop's has the interface, not the base class
        super().connection_made(transport)

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        """Count what the child writes."""
        self.unread_bytes += len(data)
        super().pipe_data_received(fd, data)

    def process_exited(self) -> None:
        """Report how the process ended."""
        assert self._child is not None
        code = self._child.get_returncode()
        assert code is not None
        self.exited.set_result(code)
        super().process_exited()

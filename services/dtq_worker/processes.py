"""Processes: handlers that are CPU-bound or untrusted run in children, which can be killed.

Owns the children: one task at a time each, kept for the next one, killed on timeout and cancel.
The protocol is a line of JSON each way. Must never trust a child's answer beyond its shape.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from dtq.handlers import Context

LINE_BYTES_MAX: Final = 16 * 1_048_576
"""Longest line of the protocol, in bytes: a payload and a result fit, a flood does not."""


class Order(msgspec.Struct):
    """What a child is asked to run. `payload` is JSON."""

    type: str
    payload: msgspec.Raw
    context: Context


class Answer(msgspec.Struct):
    """How it ended: a value, or an error."""

    value: Any = None
    error: str | None = None
    permanent: bool = False
    delay_seconds: float | None = None
    snoozed: bool = False
    traceback: str | None = None


class ChildError(Exception):
    """What the handler raised in its child, or how the child ended."""

    def __init__(
        self,
        message: str,
        *,
        permanent: bool = False,
        delay_seconds: float | None = None,
        snoozed: bool = False,
        traceback: str | None = None,
    ) -> None:
        super().__init__(message)
        self.permanent = permanent
        self.delay_seconds = delay_seconds
        self.snoozed = snoozed
        self.traceback = traceback


class Processes:
    """A pool of children that grows with demand and is bounded by the worker's concurrency.

    Args:
        modules: the handler modules that a child imports.
    """

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules
        self._idle: list[asyncio.subprocess.Process] = []
        self._busy: set[asyncio.subprocess.Process] = set()

    async def run(self, type_: str, payload: str, context: Context) -> Any:
        """Run a handler in a child; return its value.

        Raises:
            ChildError: the handler raised, or the child died.
        """
        child = await self._child()
        self._busy.add(child)
        try:
            answer = await self._ask(child, Order(type=type_, payload=msgspec.Raw(payload.encode()), context=context))
        except BaseException:
            await _kill(child)
            raise
        finally:
            self._busy.discard(child)
        self._idle.append(child)
        if answer.error is not None:
            raise ChildError(
                answer.error,
                permanent=answer.permanent,
                delay_seconds=answer.delay_seconds,
                snoozed=answer.snoozed,
                traceback=answer.traceback,
            )
        return answer.value

    async def close(self) -> None:
        """End every child."""
        for child in (*self._idle, *self._busy):
            await _kill(child)
        self._idle.clear()

    async def _child(self) -> asyncio.subprocess.Process:
        while self._idle:
            child = self._idle.pop()
            if child.returncode is None:
                return child
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "dtq_worker.child",
            *self._modules,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            # Ours only: a child needs none of our secrets.
            env={name: value for name, value in os.environ.items() if not _is_secret(name)},
            start_new_session=True,
        )

    @staticmethod
    async def _ask(child: asyncio.subprocess.Process, order: Order) -> Answer:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(msgspec.json.encode(order) + b"\n")
            await child.stdin.drain()
            line = await child.stdout.readline()
        except (ConnectionError, ValueError) as error:
            raise ChildError(f"the handler's process ended: {error}") from error
        if not line.endswith(b"\n"):
            code = await child.wait()
            raise ChildError(f"the handler's process ended with {_how(code)}")
        try:
            return msgspec.json.decode(line, type=Answer)
        except msgspec.DecodeError as error:
            raise ChildError(f"the handler's process answered nonsense: {error}", permanent=True) from error


async def _kill(child: asyncio.subprocess.Process) -> None:
    """End a child and whatever it started: it leads a session of its own."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await child.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _is_secret(name: str) -> bool:
    return name in ("DB_DSN", "RMQ_PASS", "DB_DSN_FILE", "RMQ_PASS_FILE")

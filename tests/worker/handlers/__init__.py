"""Sample handlers of the worker suite; the type says what each does."""

import asyncio
import ctypes
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dtq import Context, PermanentError, RetryLater, Snooze, handler

HUGE = 10 * 1_048_576


class WeirdError(BaseException):
    """Neither an Exception nor one of Python's own."""


class UnspeakableError(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise SystemExit(3)


class Opaque:
    """Cannot be written as JSON."""


class Hostile:
    """Raises whatever is asked of it."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def circle() -> list[Any]:
    """A list that contains itself."""
    found: list[Any] = []
    found.append(found)
    return found


def generator() -> Iterator[int]:
    yield 1


async def async_generator() -> AsyncIterator[int]:
    yield 1


async def coroutine() -> int:
    return 1


def leave_a_thread_behind() -> str:
    threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    return "left"


RESULTS: dict[str, Any] = {
    "nothing": lambda: None,
    "number": lambda: 7,
    "text": lambda: "ünï",
    "nested": lambda: {"a": [1, {"b": None}]},
    "time": lambda: datetime(2026, 1, 1, tzinfo=UTC),
    "bytes": lambda: b"abc",
    "set": lambda: {1},
    "nan": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "big integer": lambda: 2**70,
    "opaque": Opaque,
    "hostile": Hostile,
    "circle": circle,
    "huge": lambda: "x" * HUGE,
    "nul": lambda: "a\0b",
    "backslash": lambda: "\\u0000",
    "large number": lambda: [1e300, 5.0, 1e22],
    "surrogate": lambda: "\ud800",
    "generator": generator,
    "async generator": async_generator,
    "coroutine": coroutine,
    "odd keys": lambda: {(1, 2): 3},
    "thread": leave_a_thread_behind,
}

ERRORS: dict[str, BaseException] = {
    "plain": ValueError("plainly wrong"),
    "no words": ValueError(),
    "huge message": ValueError("x" * HUGE),
    "nul message": ValueError("a\0b"),
    "surrogate message": ValueError("\ud800"),
    "system exit": SystemExit(3),
    "keyboard interrupt": KeyboardInterrupt(),
    "weird": WeirdError("weirdly"),
    "stop iteration": StopIteration("stopped"),
    "generator exit": GeneratorExit(),
    "cancelled": asyncio.CancelledError("not by you"),
    "timeout": TimeoutError("its own"),
    "memory": MemoryError("its own"),
    "group": BaseExceptionGroup("many", [ValueError("one"), WeirdError("two")]),
    "permanent": PermanentError("never again"),
    "unspeakable": UnspeakableError(),
}


def act(payload: dict[str, Any]) -> Any:
    """Return or raise what the payload names."""
    if "raises" in payload:
        raise ERRORS[payload["raises"]].with_traceback(None)
    return RESULTS[payload["gives"]]()


@handler("w.act.async")
async def act_async(payload: Any) -> Any:
    await asyncio.sleep(0)
    return act(payload)


@handler("w.act.thread")
def act_thread(payload: Any) -> Any:
    return act(payload)


@handler("w.act.process", process=True)
def act_process(payload: Any) -> Any:
    return act(payload)


@handler("w.wait.async")
async def wait_async(payload: Any, context: Context) -> int:
    await asyncio.sleep(payload["seconds"] if context.attempt == 1 else 0)
    return context.attempt


@handler("w.wait.thread")
def wait_thread(payload: Any, context: Context) -> int:
    time.sleep(payload["seconds"] if context.attempt == 1 else 0)
    return context.attempt


@handler("w.wait.process", process=True)
def wait_process(payload: Any, context: Context) -> int:
    if "pids" in payload:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        Path(payload["pids"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(payload["seconds"] if context.attempt == 1 else 0)
    return context.attempt


@handler("w.span")
async def span(payload: Any) -> list[float]:
    """Wait; return when it began and ended."""
    began = time.monotonic()
    await asyncio.sleep(payload["seconds"])
    return [began, time.monotonic()]


@handler("w.stubborn")
async def stubborn(payload: Any) -> str:
    """Swallow every cancellation until its own time is over."""
    until = time.monotonic() + payload["seconds"]
    while time.monotonic() < until:
        try:
            await asyncio.sleep(until - time.monotonic())
        except asyncio.CancelledError:
            continue
    return "late"


@handler("w.block")
async def block(payload: Any) -> str:
    """Block the event loop, as no async handler should."""
    time.sleep(payload["seconds"])  # noqa: ASYNC251
    return "blocked"


@handler("w.fail")
async def fail(payload: Any, context: Context) -> int:
    """Fail as many times as it is told to; ask for a delay if it is told to."""
    if context.attempt <= payload.get("times", 99):
        if "later" in payload:
            raise RetryLater(delay_seconds=payload["later"])
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


def snooze(payload: Any, context: Context) -> int:
    """Put the task off as many times as it is told to, then fail as many times as it is told to."""
    if context.attempt <= payload["times"]:
        raise Snooze(delay_seconds=0.1)
    if context.attempt <= payload["times"] + payload.get("failures", 0):
        raise RuntimeError(f"attempt {context.attempt}")
    return context.attempt


@handler("w.snooze.async")
async def snooze_async(payload: Any, context: Context) -> int:
    return snooze(payload, context)


@handler("w.snooze.process", process=True)
def snooze_process(payload: Any, context: Context) -> int:
    return snooze(payload, context)


def recurse(depth: int) -> int:
    """Recurse without an end."""
    return recurse(depth + 1) + 1


@handler("w.recurse.thread")
def recurse_thread(_: Any) -> int:
    return recurse(0)


@handler("w.die", process=True)
def die(payload: Any) -> Any:
    """End the process in the way the payload names."""
    match payload["how"]:
        case "segfault":
            ctypes.string_at(0)
        case "exit 0":
            os._exit(0)
        case "exit 3":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "out of memory":
            resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))
            return len(bytearray(2**33))
        case "abort":
            os.abort()
        case "prints":
            print("noise on stdout", flush=True)  # noqa: T201
            return "printed"
        case "closes":
            os.closerange(3, 256)
            return "closed"
        case "secrets":
            return [name for name in os.environ if name in ("DB_DSN", "RMQ_PASS")]
    return os.getpid()

"""Sample handlers that hurt their worker."""

import asyncio
import contextlib
import ctypes
import os
import signal
from typing import Any

from dtq import Context, handler
from tests.support.handlers import note


@handler("sample.poison.v1")
def poison(_: Any, context: Context) -> None:
    """Take the worker down, each time in another way."""
    note("start", context)
    match context.attempt % 3:
        case 0:
            os.kill(os.getpid(), signal.SIGKILL)
        case 1:
            os._exit(7)
        case _:
            ctypes.string_at(0)


@handler("sample.stubborn.v1")
async def stubborn(_: Any, context: Context) -> None:
    """Never end, not even when cancelled."""
    note("start", context)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


@handler("sample.hungry.v1")
def eat_beside_others(_: Any, context: Context) -> None:
    """Exhaust the worker's own memory."""
    note("start", context)
    eat()


@handler("sample.hungry-child.v1", process=True)
def eat_in_a_child(_: Any, context: Context) -> None:
    """Exhaust the memory of a child process."""
    note("start", context)
    eat()


def eat() -> None:
    """Take memory until there is none, and abort then, as a C library does that gets none."""
    eaten = []
    try:
        while True:
            eaten.append(b"x" * (4 << 20))
    except MemoryError:
        os.abort()

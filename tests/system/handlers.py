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
    """Never end, whoever asks."""
    note("start", context)
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)

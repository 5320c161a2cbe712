"""Handlers of the fault runs: one for each way in which a task can behave. Each run is written down, fsync'd."""

import asyncio
from typing import Any, Final

from dtq import Context, handler
from dtq.runtime.loops import wait
from tests.support.handlers import note

SLOW_SECONDS: Final = 1.5
"""How long a slow task takes, in seconds: long enough to be met by most faults."""


@handler("fault.ok.v1")
async def succeed(payload: Any, context: Context) -> dict[str, Any]:
    """Succeed."""
    return _done(payload, context)


@handler("fault.flaky.v1")
async def fail_first(payload: Any, context: Context) -> dict[str, Any]:
    """Fail the first attempt, and succeed later."""
    if context.attempt == 1:
        note("start", context)
        note("end", context, "failed")
        raise RuntimeError("as asked")
    return _done(payload, context)


@handler("fault.fail.v1")
async def fail(_: Any, context: Context) -> None:
    """Fail, always."""
    note("start", context)
    note("end", context, "failed")
    raise RuntimeError("as asked")


@handler("fault.slow.v1")
async def take_time(payload: Any, context: Context) -> dict[str, Any]:
    """Succeed after a while."""
    note("start", context)
    await wait(asyncio.Event(), SLOW_SECONDS)
    note("end", context, "succeeded")
    return {"op": payload["op"], "attempt": context.attempt}


@handler("fault.thread.v1")
def succeed_in_a_thread(payload: Any, context: Context) -> dict[str, Any]:
    """Succeed, in a thread."""
    return _done(payload, context)


@handler("fault.process.v1", process=True)
def succeed_in_a_process(payload: Any, context: Context) -> dict[str, Any]:
    """Succeed, in a process of its own."""
    return _done(payload, context)


def _done(payload: Any, context: Context) -> dict[str, Any]:
    note("start", context)
    note("end", context, "succeeded")
    return {"op": payload["op"], "attempt": context.attempt}

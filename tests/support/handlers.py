"""Sample handlers: each run is written down, fsync'd, before and after its work."""

import asyncio
import json
import os
import time
from typing import Any, Final

from dtq import Context, handler

WALL_VARIABLE: Final = "TEST_WALL_MINUS_MONOTONIC_SECONDS"
"""Holds how far `time.time()` is ahead of `time.monotonic()`, as a process with a right clock sees it."""


def note(phase: str, context: Context, outcome: str | None = None) -> None:
    """Append one line (`tests.faults.history.Run`) that survives the death of this process."""
    run = {
        "task_id": str(context.task_id),
        "attempt": context.attempt,
        "pid": os.getpid(),
        "phase": phase,
        "at": _now(),
        "outcome": outcome,
    }
    line = json.dumps(run)
    descriptor = os.open(os.environ["HANDLER_LOG"], os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        os.write(descriptor, line.encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _now() -> float:
    """Return `time.time()`, right even in a process whose wall clock was set wrong on purpose."""
    wall = os.environ.get(WALL_VARIABLE)
    return time.time() if wall is None else time.monotonic() + float(wall)


@handler("sample.note.v1")
async def take_note(payload: Any, context: Context) -> dict[str, int]:
    """Run for `seconds`; the first attempt runs for `first_seconds` if given."""
    note("start", context)
    seconds = payload.get("first_seconds", 0) if context.attempt == 1 else payload.get("seconds", 0)
    if payload.get("fail_first") and context.attempt == 1:
        raise RuntimeError("as asked")
    await asyncio.sleep(seconds)
    note("end", context, "succeeded")
    return {"attempt": context.attempt}


@handler("sample.fail.v1")
def fail(_: Any, context: Context) -> None:
    """Fail, always."""
    note("start", context)
    raise RuntimeError("as asked")

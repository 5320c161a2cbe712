"""The handlers of the end-to-end suite, mounted into worker pods: each run is on the recorder's disk before and
after its work (`tests.faults.history.Run`)."""

import json
import os
import socket
import time
import urllib.request
import zlib
from typing import Any

from dtq import Context, handler

RECORD_SECONDS = 20.0
BLOCK_BYTES = 4 * 1024 * 1024


def note(phase: str, context: Context, outcome: str | None = None) -> None:
    """Have one record written; without it the run fails, and is run again."""
    run = {
        "task_id": str(context.task_id),
        "attempt": context.attempt,
        # Every pod's process has the same id: the pod's name tells them apart.
        "pid": zlib.crc32(socket.gethostname().encode()),
        "phase": phase,
        "at": time.time(),
        "outcome": outcome,
    }
    url = os.environ["E2E_RECORDER"] + "/handler"
    with urllib.request.urlopen(url, json.dumps(run).encode(), timeout=RECORD_SECONDS):
        pass


def work(payload: Any, context: Context) -> dict[str, int]:
    """Run for `seconds`."""
    note("start", context)
    time.sleep(payload["seconds"])
    note("end", context, "succeeded")
    return {"attempt": context.attempt}


burst, steady, late, left, right, slow, innocent = (
    handler(f"e2e.{name}.v1")(work) for name in ("burst", "steady", "late", "left", "right", "slow", "innocent")
)


@handler("e2e.bomb.v1")
def bomb(_: Any, context: Context) -> None:
    """Use memory until the kernel ends the worker."""
    note("start", context)
    held = []
    while True:
        held.append(b"x" * BLOCK_BYTES)


@handler("e2e.fail.v1")
def fail(_: Any, context: Context) -> None:
    """Fail, always."""
    note("start", context)
    raise RuntimeError("as asked")

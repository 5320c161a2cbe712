"""Handlers that reach for what belongs to others: the next task, another type's tasks, the worker's secrets."""

import json
import os
import sys
from pathlib import Path
from typing import Any, Final

from dtq import handler

FORGED: Final = {"value": "forged", "nonce": "0" * 32}


@handler("intruder.pid", process=True)
def own_pid(_: Any) -> int:
    return os.getpid()


@handler("intruder.other", process=True)
def other_pid(_: Any) -> int:
    return os.getpid()


def forged_line() -> bytes:
    """Return an answer as a child writes it, but without the nonce of a run."""
    return json.dumps(FORGED).encode() + b"\n"


def pipes() -> list[int]:
    """Return the descriptors of the pipes to the worker."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        number = int(descriptor.name)
        if number > 2 and descriptor.is_fifo():
            found.append(number)
    return found


@handler("intruder.forger", process=True)
def forge(payload: Any) -> int:
    """Return the own pid; write a forged answer: before the true one, or right after it for the next run."""
    if payload == "before":
        for pipe in pipes():
            try:
                os.write(pipe, forged_line())
            except OSError:
                continue  # the end to read from
    if payload == "after":
        child: Any = sys.modules["__main__"]
        encoded = child.encoded
        child.encoded = lambda answer: encoded(answer) + b"\n" + forged_line().rstrip()
    return os.getpid()

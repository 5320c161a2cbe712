"""Handlers that reach for what belongs to others: the next task, another type's tasks, the worker's secrets."""

import os
from typing import Any

from dtq import handler


@handler("intruder.pid", process=True)
def own_pid(_: Any) -> int:
    return os.getpid()


@handler("intruder.other", process=True)
def other_pid(_: Any) -> int:
    return os.getpid()

"""What a worker and its child processes say to each other: a line of JSON each way.

A child imports this before every first task, so it imports little.
"""

from typing import Any

import msgspec

from dtq.handlers import Context


class RunRequest(msgspec.Struct):
    """What a child is asked to run. `payload` is JSON."""

    type: str
    payload: msgspec.Raw
    context: Context


class RunResult(msgspec.Struct):
    """How it ended: a value, or an error; and what the run left behind in its process, in words."""

    value: Any = None
    error: str | None = None
    permanent: bool = False
    delay_seconds: float | None = None
    snoozed: bool = False
    traceback: str | None = None
    left: list[str] = []

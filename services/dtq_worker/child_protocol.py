"""The protocol between a worker and its child processes: a line of JSON each way.

Every child imports this module before its first task, so it imports little.
"""

from typing import Any

import msgspec

from dtq.handlers import Context


class RunRequest(msgspec.Struct):
    """The task that a child is asked to run. `payload` is JSON; the answer must repeat `nonce`."""

    nonce: str
    payload: msgspec.Raw
    context: Context


class RunResult(msgspec.Struct):
    """How the run ended: with a value or an error; and what it left behind in the process, as text."""

    value: Any = None
    error: str | None = None
    permanent: bool = False
    delay_seconds: float | None = None
    snoozed: bool = False
    traceback: str | None = None
    left: list[str] = []
    nonce: str = ""

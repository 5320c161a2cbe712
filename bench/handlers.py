"""Handlers that do nothing but say when they began."""

import time
from typing import Any

from dtq import handler


@handler("bench.noop.v1")
async def noop(payload: dict[str, Any]) -> dict[str, int]:
    """Return the wall clock, in nanoseconds."""
    del payload
    return {"began_ns": time.time_ns()}

"""Bounded waiting."""

import time
from collections.abc import Callable
from pathlib import Path

from hack.lib.errors import HackError

POLL_SECONDS = 0.05


def wait_for(condition: Callable[[], bool], *, timeout_seconds: float, poll_seconds: float = POLL_SECONDS) -> bool:
    """Return whether the condition became true in time; it is checked once more at the end."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(poll_seconds)
    return condition()


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float,
    log: Path | None = None,
    next_step: str = "",
) -> None:
    """Wait until the condition is true; if it is not in time, raise a `HackError` that names `what`."""
    if not wait_for(condition, timeout_seconds=timeout_seconds):
        raise HackError(f"{what}: not within {timeout_seconds:g} s", log=log, next_step=next_step)

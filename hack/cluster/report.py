"""Owns what a person sees: progress lines, errors, and waits that end.

Must never decide anything: a step that fails raises `ClusterError`, whose text says where to look
and what to do next.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

POLL_SECONDS = 0.1
TAIL_LINES = 8
TAIL_LINE_LENGTH = 300


class ClusterError(Exception):
    """Something a person must look at: what failed, the log and its last lines, what to do next."""

    def __init__(self, what: str, *, log: Path | None = None, next_step: str = "") -> None:
        lines = [what]
        if log is not None:
            lines += [f"log:  {log}", *_tail(log)]
        if next_step:
            lines += [f"next: {next_step}"]
        super().__init__("\n".join(lines))


def _tail(log: Path) -> list[str]:
    """The log's last lines, since the log may end with the cluster before anyone reads it."""
    if not log.exists():
        return []
    lines = log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
    return [f"      | {line[:TAIL_LINE_LENGTH]}" for line in lines]


def say(text: str) -> None:
    """Print one line of progress; standard output stays free for what a command was asked for."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Say what begins, then how long it took; a failure is said by whoever catches it."""
    started = time.monotonic()
    say(f"  ...    {what}")
    yield
    say(f"  {time.monotonic() - started:5.1f}s {what}")


def wait_until(
    met: Callable[[], bool],
    what: str,
    *,
    timeout_seconds: float,
    log: Path | None = None,
    next_step: str = "",
) -> None:
    """Poll `met` until it is true, at most `timeout_seconds`."""
    deadline = time.monotonic() + timeout_seconds
    while not met():
        if time.monotonic() >= deadline:
            raise ClusterError(f"{what}: not within {timeout_seconds:g} s", log=log, next_step=next_step)
        time.sleep(POLL_SECONDS)

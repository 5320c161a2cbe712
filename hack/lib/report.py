"""What a person sees while a command runs. Secrets are never shown.

All of it goes to standard error: standard output is for the result of a command.
"""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_SECONDS = 5.0


class _Line:
    """The progress line: rewritten in place on a terminal, printed periodically elsewhere."""

    def __init__(self) -> None:
        self.open = False
        self.last_shown = 0.0


_line = _Line()


def say(text: str) -> None:
    """Print a line."""
    _clear()
    print(text, file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Print progress: rewritten in place on a terminal, less often elsewhere."""
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + f"    {text}"[:width], end="", file=sys.stderr, flush=True)
        _line.open = True
    elif time.monotonic() - _line.last_shown >= QUIET_SECONDS:
        say(f"    {text}")
        _line.last_shown = time.monotonic()


@contextmanager
def step(what: str) -> Iterator[None]:
    """Print what begins, then how long it took; the code that catches a failure prints it."""
    say(f"==> {what}")
    started = time.monotonic()
    yield
    seconds = time.monotonic() - started
    if seconds >= 1:
        say(f"    {seconds:.1f} s: {what}")


def table(rows: list[tuple[str, ...]]) -> None:
    """Print rows in aligned columns, as the answer of a command."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        line = "    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        print(line, flush=True)


def _clear() -> None:
    if _line.open:
        print("\r\033[K", end="", file=sys.stderr)
        _line.open = False

"""Owns what a person sees while things happen. It must never show a secret."""

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

QUIET_SECONDS = 5.0


class _Line:
    """The one line that is being rewritten on a terminal; elsewhere a line now and then."""

    def __init__(self) -> None:
        self.open = False
        self.last_shown = 0.0


_line = _Line()


def say(text: str) -> None:
    """A line for the person."""
    _clear()
    print(text, flush=True)


def progress(text: str) -> None:
    """A sign of life: rewritten in place on a terminal, thinned out elsewhere."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print("\r\033[K" + f"    {text}"[:width], end="", flush=True)
        _line.open = True
    elif time.monotonic() - _line.last_shown >= QUIET_SECONDS:
        print(f"    {text}", flush=True)
        _line.last_shown = time.monotonic()


@contextmanager
def step(text: str) -> Iterator[None]:
    """A part of the work, with the time that it took."""
    say(f"==> {text}")
    started = time.monotonic()
    yield
    _clear()
    seconds = time.monotonic() - started
    if seconds >= 1:
        say(f"    done in {seconds:.1f} s")


def table(rows: list[tuple[str, ...]]) -> None:
    """Rows in aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("    " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _clear() -> None:
    if _line.open:
        print("\r\033[K", end="")
        _line.open = False

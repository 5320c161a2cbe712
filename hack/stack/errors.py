"""Owns the one error of the local stack: what happened, what the log says, what to do.

It must never reach a person as a traceback.
"""

from pathlib import Path

LOG_LINES_SHOWN = 12
LOG_BYTES_READ = 16_384


def last_lines(log: Path) -> list[str]:
    """The end of a log file, as much as fits a screen; empty when there is no log."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - LOG_BYTES_READ))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LOG_LINES_SHOWN:]


class StackError(Exception):
    """Something that a person must act on."""

    def __init__(self, what: str, *, log: Path | None = None, fix: str | None = None) -> None:
        """Take the log's last lines now: the folder may be gone when the error is shown."""
        self.what = what
        self.log = log
        self.fix = fix
        self.log_lines = last_lines(log) if log else []
        super().__init__(what)

    def __str__(self) -> str:
        """One paragraph, then the log's end, then the fix."""
        parts = [self.what]
        if self.log:
            parts.append(f"Its log is {self.log}" + (", which ends:" if self.log_lines else " (empty)."))
            parts += [f"    {line}" for line in self.log_lines]
        if self.fix:
            parts.append(f"Fix: {self.fix}")
        return "\n".join(parts)

"""The one error of the programs in hack/: what failed, the end of its log, what to do next.

The command lines print it without a traceback.
"""

from pathlib import Path

LOG_LINES_SHOWN = 12
LOG_LINE_LENGTH = 300
LOG_BYTES_READ = 16_384


class HackError(Exception):
    """A failure that a person must act on."""

    def __init__(self, what: str, *, log: Path | None = None, next_step: str = "") -> None:
        """Read the last lines of the log now: the folder may be gone when the error is shown."""
        lines = [what]
        if log is not None:
            lines += [f"log:  {log}", *(f"      | {line[:LOG_LINE_LENGTH]}" for line in last_lines(log))]
        if next_step:
            lines += [f"next: {next_step}"]
        super().__init__("\n".join(lines))


def last_lines(log: Path) -> list[str]:
    """Return the end of a log file, at most one screen; empty if there is no log."""
    try:
        with log.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - LOG_BYTES_READ))
            text = stream.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LOG_LINES_SHOWN:]

"""Tolerance: a stranger's message must not end our connection, however odd its routing key or its properties.

Owns one change of the driver's decoder. The driver raises on text that is not UTF-8, on times beyond the calendar
and on tables that are nested too deep; the connection ends, the message comes again, and so it goes on for ever.
dtq reads nothing of a message but its body. Must never change what a well-formed message says.
"""

from typing import Any

from pamqp import decode


def _short_text(value: bytes) -> tuple[int, str]:
    length = value[0]
    return length + 1, value[1 : length + 1].decode("utf-8", "replace")


def _time(value: bytes) -> tuple[int, Any]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, Any]:
    try:
        return decode.field_table(value)
    except (ValueError, OverflowError, OSError, RecursionError):
        return 4 + int.from_bytes(value[:4], "big"), {}


def install() -> None:
    """Make the driver tolerant, for the whole process."""
    decode.METHODS |= {"shortstr": _short_text, "timestamp": _time, "table": _table}

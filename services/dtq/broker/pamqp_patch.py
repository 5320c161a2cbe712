"""Patches the driver's decoder, so that no foreign message ends our connection by its routing key or properties.

The driver raises on text that is not UTF-8, on times beyond the calendar and on tables that are nested too deeply. The
connection then ends, the message is delivered again, and the cycle repeats for ever. dtq reads only the body of a
message. The decoding of a well-formed message stays unchanged.
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
    """Patch the driver, for the whole process."""
    decode.METHODS |= {"shortstr": _short_text, "timestamp": _time, "table": _table}

"""Durations as written in environment variables: `5s`, `2m`, `1h30m`, `250ms`.

A number without a unit is refused.
"""

import re
from typing import Final

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h)")


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means.

    Raises:
        ValueError: `text` is empty, lacks a unit, or holds anything besides numbers and units.
    """
    compact = text.strip()
    parts = _PART.findall(compact)
    if not parts or "".join(number + unit for number, unit in parts) != compact:
        raise ValueError(f"{text!r} is not a duration: write a number with its unit, such as 5s, 2m or 1h30m")
    return float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def show_duration(seconds: int) -> str:
    """Return seconds in the largest unit that is exact: `7 days`, `90 minutes`."""
    sizes = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
    unit, size = next((unit, size) for unit, size in sizes if seconds % size == 0 and (seconds or size == 1))
    count = seconds // size
    return f"{count} {unit}" + ("" if count == 1 else "s")


def parse_durations(text: str) -> tuple[float, ...]:
    """Return the seconds of a comma-separated list of durations.

    Raises:
        ValueError: the list is empty or one of its parts is not a duration.
    """
    return tuple(parse_duration(part) for part in text.split(","))

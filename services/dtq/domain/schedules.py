"""Cron expressions: which are accepted, and when an expression matches next. The only module that uses cronsim.

A misspelt expression and one that never matches get different errors.
"""

from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

NICKNAMES: Final = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
"""The common schedules of crontab(5)."""
_FIELDS: Final = 5
_HOW: Final = f"write five fields, such as 0 6 * * 1, or one of {' '.join(NICKNAMES)}"
_DAY_OF_MONTH: Final = 2


class BadSchedule(ValueError):
    """A cron entry that cannot be used; the message says why, and what to write instead."""


def next_fire(cron: str, timezone: str, after: datetime) -> datetime:
    """Return the next time at which a cron expression matches in its time zone, in UTC.

    Raises:
        BadSchedule: the expression is malformed or never matches, or the time zone does not exist.
    """
    try:
        zone = ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadSchedule(f"timezone {timezone!r} is unknown: write an IANA name such as Europe/Berlin") from error
    try:
        return next(CronSim(_fields(cron), after.astimezone(zone))).astimezone(UTC)
    except CronSimError as error:
        if _is_a_day_that_no_month_has(cron):
            raise _never(cron) from error
        raise BadSchedule(f"cron {cron!r} is malformed ({str(error).lower()}): {_HOW}") from error
    except StopIteration as error:
        raise _never(cron) from error


def _fields(cron: str) -> str:
    text = cron.strip()
    if text.startswith("@"):
        if text not in NICKNAMES:
            raise BadSchedule(f"cron {cron!r} is not a name that dtq knows: {_HOW}")
        return NICKNAMES[text]
    if len(text.split()) != _FIELDS:
        raise BadSchedule(f"cron {cron!r} has {len(text.split())} fields: {_HOW}")
    return text


def _is_a_day_that_no_month_has(cron: str) -> bool:
    """Return whether an expression is well-formed but names a day that its months lack: cronsim rejects both alike."""
    fields = cron.split()
    if len(fields) != _FIELDS:
        return False
    fields[3] = "*"
    try:
        CronSim(" ".join(fields), datetime(2024, 1, 1, tzinfo=UTC))
        fields[_DAY_OF_MONTH], fields[3] = "*", cron.split()[3]
        CronSim(" ".join(fields), datetime(2024, 1, 1, tzinfo=UTC))
    except CronSimError:
        return False
    return True


def _never(cron: str) -> BadSchedule:
    return BadSchedule(f"cron {cron!r} is valid but never fires: none of its months has that day")

"""Cron expressions: which are read, and when one matches next.

Owns every use of cronsim. Must never answer "never" for what is only misspelt: the two have different errors.
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
"""What crontab(5) calls common schedules."""
_FIELDS: Final = 5
_HOW: Final = f"write five fields, such as 0 6 * * 1, or one of {' '.join(NICKNAMES)}"
_DAY_OF_MONTH: Final = 2


class BadSchedule(ValueError):
    """A cron entry that cannot be followed: says why, and what to write instead."""


def next_fire(cron: str, timezone: str, after: datetime) -> datetime:
    """Return the next time that a cron expression matches in its time zone, in UTC.

    Raises:
        BadSchedule: the expression is malformed or never matches, or there is no such time zone.
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
    """Return whether an expression is right but for a day that its months do not have: cronsim calls both bad."""
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
    return BadSchedule(f"cron {cron!r} is well-formed and never fires: no month that it names has that day")

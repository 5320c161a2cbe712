"""Cron expressions: five fields or a common name; "never fires" is said only of what is well-formed."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.schedules import NICKNAMES, BadSchedule, next_fire

NOW = datetime(2026, 11, 26, 12, 30, 10, tzinfo=UTC)


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("@hourly", datetime(2026, 11, 26, 13, tzinfo=UTC)),
        ("@daily", datetime(2026, 11, 27, tzinfo=UTC)),
        ("@midnight", datetime(2026, 11, 27, tzinfo=UTC)),
        ("@weekly", datetime(2026, 11, 29, tzinfo=UTC)),
        ("@monthly", datetime(2026, 12, 1, tzinfo=UTC)),
        ("@yearly", datetime(2027, 1, 1, tzinfo=UTC)),
        ("@annually", datetime(2027, 1, 1, tzinfo=UTC)),
        (" 0 6 * * 1 ", datetime(2026, 11, 30, 6, tzinfo=UTC)),
        ("0 0 29 2 *", datetime(2028, 2, 29, tzinfo=UTC)),
    ],
)
def test_an_expression_fires_when_it_says(cron: str, expected: datetime) -> None:
    assert next_fire(cron, "UTC", NOW) == expected


def test_a_common_name_follows_its_time_zone() -> None:
    assert next_fire("@daily", "Europe/Berlin", NOW) == datetime(2026, 11, 26, 23, tzinfo=UTC)


@pytest.mark.parametrize("cron", ["0 0 30 2 *", "0 0 31 2 *", "0 0 31 4,6,9,11 *"])
def test_a_day_that_no_month_has_never_fires(cron: str) -> None:
    with pytest.raises(BadSchedule, match="valid but never fires"):
        next_fire(cron, "UTC", NOW)


@pytest.mark.parametrize(
    ("cron", "word"),
    [
        ("61 * * * *", "malformed .*minute"),
        ("0 0 32 * *", "malformed .*day-of-month"),
        ("0 0 30 13 *", "malformed"),
        ("0 0 30 2 9", "malformed"),
        ("every day at noon please", "malformed"),
        ("* * * *", "has 4 fields"),
        ("0 0 6 * * 1", "has 6 fields"),
        ("", "has 0 fields"),
        ("@every 5m", "not a name"),
        ("@reboot", "not a name"),
        ("@Daily", "not a name"),
    ],
)
def test_what_is_misspelt_is_told_so_with_the_way_out(cron: str, word: str) -> None:
    with pytest.raises(BadSchedule, match=word) as caught:
        next_fire(cron, "UTC", NOW)
    assert "write five fields" in str(caught.value)
    assert "@daily" in str(caught.value)
    assert "never fires" not in str(caught.value)


@pytest.mark.parametrize("timezone", ["Mars/Olympus", "../etc/passwd", "", "/etc/localtime", "Europe"])
def test_an_unknown_time_zone_is_told_so(timezone: str) -> None:
    with pytest.raises(BadSchedule, match=r"timezone .* is unknown"):
        next_fire("@daily", timezone, NOW)


@given(
    st.text(max_size=20)
    | st.lists(st.sampled_from(["*", "0", "30", "31", "2", "4", "L", "*/5", "1-3", "x", "7#5"]), max_size=6).map(
        " ".join
    )
    | st.sampled_from(sorted(NICKNAMES))
)
def test_any_text_has_a_next_time_or_a_reason(cron: str) -> None:
    with suppress(BadSchedule):
        assert next_fire(cron, "UTC", NOW) > NOW

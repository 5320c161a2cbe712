"""Cron entries: when they fire, what is made up for, and that a broken one stays alone."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from dtq.domain.errors import Rejected
from dtq_api.requests import parse_enqueue
from dtq_db.maintenance import DueSchedule
from dtq_maintenance.scheduler import BROKEN_SECONDS, MISFIRE_SECONDS, plan_fire

NOW = datetime(2026, 11, 24, 12, 30, 10, tzinfo=UTC)
DUE = DueSchedule(
    type="report.build.v1",
    name="half-hourly",
    cron="*/30 * * * *",
    timezone="UTC",
    payload="{}",
    next_fire_at=NOW.replace(second=0),
    now=NOW,
    active=True,
    queue_set="default",
    default_queue="default",
    default_max_attempts=5,
)


def test_a_due_entry_fires_under_a_key_that_names_its_time() -> None:
    task, following = plan_fire(DUE)
    assert task is not None
    assert task.idempotency_key == "\x1fschedule:report.build.v1:half-hourly:2026-11-24T12:30Z"
    assert following == datetime(2026, 11, 24, 13, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    "change",
    [{"next_fire_at": None}, {"active": False}, {"next_fire_at": NOW - timedelta(seconds=MISFIRE_SECONDS + 1)}],
)
def test_a_new_an_inactive_and_a_long_missed_entry_wait_for_their_next_time(change: dict[str, object]) -> None:
    assert plan_fire(replace(DUE, **change)) == (None, datetime(2026, 11, 24, 13, 0, tzinfo=UTC))  # type: ignore[arg-type]


def test_a_time_that_the_clock_skips_is_not_fired_twice() -> None:
    night = datetime(2026, 3, 29, 0, 59, tzinfo=UTC)  # Berlin goes from 2:00 to 3:00 a minute later
    _, following = plan_fire(replace(DUE, cron="30 2 * * *", timezone="Europe/Berlin", next_fire_at=None, now=night))
    assert timedelta(0) < following - night < timedelta(days=2)


@pytest.mark.parametrize(
    "change",
    [{"cron": "every day"}, {"cron": "61 * * * *"}, {"timezone": "Mars/Olympus"}, {"timezone": "../etc/passwd"}],
)
def test_a_broken_entry_fires_nothing_and_is_looked_at_again(change: dict[str, str]) -> None:
    assert plan_fire(replace(DUE, **change)) == (None, NOW + timedelta(seconds=BROKEN_SECONDS))  # type: ignore[arg-type]


def test_no_client_can_send_the_key_of_a_fire() -> None:
    task, _ = plan_fire(DUE)
    assert task is not None
    body: dict[str, object] = {"type": DUE.type, "payload": {}, "idempotency_key": task.idempotency_key}
    with pytest.raises(Rejected, match="idempotency_key: has control characters"):
        parse_enqueue(json.dumps(body).encode(), NOW)

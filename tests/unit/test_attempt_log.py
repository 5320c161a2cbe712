"""The log of attempts: who, which attempt and why; failures are bounded in number."""

from uuid import UUID

import pytest
import structlog

from dtq.domain.decisions import Attempt
from dtq.domain.limits import TRACEBACK_CHARS_MAX
from dtq.domain.states import Outcome
from dtq_db.attempts import Claim
from dtq_worker import attempt_log
from dtq_worker.attempt_log import FAILURES_PER_SECOND_MAX, AttemptLog

CLAIM = Claim(
    id=UUID(int=7),
    type="report.build.v1",
    queue_set="default",
    queue="default",
    payload='{"secret": 1}',
    attempt=2,
    max_attempts=5,
    crashes=0,
    timeout_seconds=9,
    backoff=None,
)
FAILED = Attempt(outcome=Outcome.FAILED, attempt=2, max_attempts=5, error="ValueError: x", traceback="at line 1")
WHO = {"task_id": str(UUID(int=7)), "type": "report.build.v1", "attempt": 2}


pytestmark = pytest.mark.usefixtures("unconfigured_logs")


@pytest.fixture(autouse=True)
def _fresh_logger(monkeypatch: pytest.MonkeyPatch) -> None:
    # A logger that was used before keeps what it was configured with then.
    monkeypatch.setattr(attempt_log, "_log", structlog.get_logger())


def test_start_end_and_failure_say_which_attempt_of_which_task() -> None:
    log = AttemptLog(lambda: 0.0)
    with structlog.testing.capture_logs() as lines:
        log.started(CLAIM)
        log.ended(CLAIM, Attempt(outcome=Outcome.SUCCEEDED, attempt=2, max_attempts=5), 0.25)
        log.ended(CLAIM, FAILED, 0.25)
    assert [line["event"] for line in lines] == ["attempt started", "attempt ended", "attempt failed"]
    assert all(line.items() >= WHO.items() for line in lines)
    assert lines[2].items() >= {"error": "ValueError: x", "traceback": "at line 1", "log_level": "warning"}.items()
    assert "secret" not in str(lines)


def test_a_storm_of_failures_is_bounded_and_what_was_left_out_is_counted() -> None:
    now = 0.0
    log = AttemptLog(lambda: now)
    with structlog.testing.capture_logs() as lines:
        for _ in range(FAILURES_PER_SECOND_MAX + 30):
            log.ended(CLAIM, FAILED, 0.1)
        now = 1.0
        log.ended(CLAIM, FAILED, 0.1)
    events = [line["event"] for line in lines]
    assert events.count("attempt failed") == FAILURES_PER_SECOND_MAX + 1
    assert [line["count"] for line in lines if line["event"] == "attempt failures suppressed"] == [30]


def test_a_long_traceback_is_cut_to_its_end() -> None:
    long = Attempt(outcome=Outcome.FAILED, attempt=1, max_attempts=5, error="x", traceback="a" * 99_999 + "the end")
    with structlog.testing.capture_logs() as lines:
        AttemptLog(lambda: 0.0).ended(CLAIM, long, 0.1)
    assert len(lines[0]["traceback"]) == TRACEBACK_CHARS_MAX
    assert lines[0]["traceback"].endswith("the end")

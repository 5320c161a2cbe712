"""What becomes of a task when an attempt has ended."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import CRASHES_MAX, SUSPECT_SECONDS_MAX, Attempt, Decision, cut, decide, describe
from dtq.domain.limits import ATTEMPTS_MAX, DELAY_SECONDS_MAX, ERROR_CHARS_MAX
from dtq.domain.states import TERMINAL, TRANSITIONS, Outcome, TaskStatus

texts = st.none() | st.text(max_size=3000) | st.text(alphabet="\x00\ud800\udfff😀x", max_size=50)
attempts = st.builds(
    Attempt,
    outcome=st.sampled_from(Outcome),
    attempt=st.integers(1, 30),
    max_attempts=st.integers(1, ATTEMPTS_MAX),
    crashes=st.integers(0, 5),
    error=texts,
    result=st.none() | st.just("{}"),
    permanent=st.booleans(),
    delay_seconds=st.none() | st.floats(min_value=0),
    alone=st.booleans(),
    neighbours=st.integers(0, 1_000),
    suspected_seconds=st.none() | st.floats(0, 1e6),
)
chances = st.floats(min_value=0, max_value=1)
RETRYABLE = [Outcome.FAILED, Outcome.TIMED_OUT]


def ended(outcome: Outcome, *, attempt: int = 1, crashes: int = 0, permanent: bool = False) -> Attempt:
    return Attempt(outcome=outcome, attempt=attempt, max_attempts=3, crashes=crashes, permanent=permanent, error="boom")


@given(attempts, chances)
def test_every_decision_is_a_legal_move_that_can_be_stored(attempt: Attempt, chance: float) -> None:
    decision = decide(attempt, Backoff(), chance)
    assert decision.status in TRANSITIONS[TaskStatus.RUNNING]
    assert decision.outcome is attempt.outcome
    assert math.isfinite(decision.delay_seconds)
    assert 0 <= decision.delay_seconds <= DELAY_SECONDS_MAX
    if decision.error is not None:
        assert len(decision.error) <= ERROR_CHARS_MAX
        assert "\x00" not in decision.error
        decision.error.encode()


@given(attempts, chances)
def test_a_retry_never_goes_beyond_the_budget(attempt: Attempt, chance: float) -> None:
    decision = decide(attempt, Backoff(), chance)
    if decision.status is TaskStatus.ENQUEUED and not (decision.drained or decision.snoozed or decision.suspected):
        assert attempt.attempt < attempt.max_attempts
        assert attempt.crashes + decision.crashed < CRASHES_MAX or not decision.crashed


@given(attempts, chances)
def test_a_result_is_kept_of_a_success_only(attempt: Attempt, chance: float) -> None:
    decision = decide(attempt, Backoff(), chance)
    assert decision.result == (attempt.result if decision.status is TaskStatus.SUCCEEDED else None)


@pytest.mark.parametrize("outcome", RETRYABLE)
def test_a_failure_is_tried_again_until_its_attempts_are_spent(outcome: Outcome) -> None:
    first = decide(ended(outcome), Backoff(), 0.0)
    assert (first.status, first.delay_seconds, first.unjittered_seconds) == (TaskStatus.ENQUEUED, 5, 5)
    assert decide(ended(outcome, attempt=3), Backoff(), 0.0).status is TaskStatus.FAILED


@pytest.mark.parametrize("outcome", RETRYABLE)
def test_a_permanent_error_is_not_tried_again(outcome: Outcome) -> None:
    assert decide(ended(outcome, permanent=True), Backoff(), 0.0).status is TaskStatus.FAILED


def test_what_was_rejected_is_not_tried_again() -> None:
    assert decide(ended(Outcome.REJECTED), Backoff(), 0.0).status is TaskStatus.FAILED


def test_a_success_and_a_cancellation_end_the_task() -> None:
    assert decide(ended(Outcome.SUCCEEDED), Backoff(), 0.0).status is TaskStatus.SUCCEEDED
    assert decide(ended(Outcome.CANCELLED), Backoff(), 0.0).status is TaskStatus.CANCELLED


def test_a_drained_attempt_never_fails_the_task_not_even_the_last_one() -> None:
    decision = decide(ended(Outcome.DRAINED, attempt=3), Backoff(), 0.0)
    assert (decision.status, decision.drained, decision.delay_seconds) == (TaskStatus.ENQUEUED, True, 0)


def lost(*, alone: bool, crashes: int = 0, suspected_seconds: float | None = None, attempt: int = 1) -> Decision:
    ended = Attempt(
        outcome=Outcome.LOST, attempt=attempt, max_attempts=3, crashes=crashes, alone=alone, neighbours=6,
        suspected_seconds=suspected_seconds, cause="for want of a nail",
    )  # fmt: skip
    return decide(ended, Backoff(), 0.0)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_lost_worker_makes_its_tasks_suspects_and_costs_them_no_attempt(attempt: int) -> None:
    decision = lost(alone=False, attempt=attempt)
    assert (decision.status, decision.suspected, decision.crashed) == (TaskStatus.ENQUEUED, True, False)
    assert decision.delay_seconds == 0
    text = "worker lost: this task runs again alone, and the attempt is not counted; it ran beside 6 other tasks"
    assert decision.error == text


def test_a_worker_that_is_lost_by_a_task_that_ran_alone_is_charged_to_it_and_the_last_crash_is_poison() -> None:
    first = lost(alone=True, suspected_seconds=60)
    assert (first.status, first.crashed, first.suspected) == (TaskStatus.ENQUEUED, True, False)
    assert first.error == "worker lost 1 time while it ran this task, alone each time; for want of a nail"
    last = lost(alone=True, suspected_seconds=60, crashes=CRASHES_MAX - 1)
    assert (last.status, last.crashed) == (TaskStatus.FAILED, True)
    assert last.error is not None
    assert last.error.startswith(f"worker lost {CRASHES_MAX} times while it ran this task, alone each time")


def test_a_suspect_that_no_worker_runs_alone_is_charged_in_the_end() -> None:
    assert lost(alone=False, suspected_seconds=SUSPECT_SECONDS_MAX - 1).suspected
    decision = lost(alone=False, suspected_seconds=SUSPECT_SECONDS_MAX)
    assert (decision.crashed, decision.suspected) == (True, False)
    assert "and no worker could run it alone" in (decision.error or "")


def test_a_delay_chosen_by_the_handler_gets_neither_retry_queue_nor_jitter() -> None:
    attempt = Attempt(outcome=Outcome.FAILED, attempt=1, max_attempts=3, delay_seconds=7.5)
    decision = decide(attempt, Backoff(jitter_percent=100), 1.0)
    assert (decision.delay_seconds, decision.unjittered_seconds) == (7.5, None)


@pytest.mark.parametrize("asked", [math.inf, 1e300, DELAY_SECONDS_MAX + 1])
def test_a_delay_that_the_handler_asked_for_is_capped(asked: float) -> None:
    attempt = Attempt(outcome=Outcome.FAILED, attempt=1, max_attempts=3, delay_seconds=asked)
    assert decide(attempt, Backoff(), 0.0).delay_seconds == DELAY_SECONDS_MAX


@given(texts)
def test_a_short_clean_text_is_kept_as_it_is(text: str | None) -> None:
    kept = cut(text)
    if text is not None and text.isprintable() and len(text) <= ERROR_CHARS_MAX:
        assert kept == text
    assert (kept is None) == (text is None)


def test_every_status_has_its_moves_and_the_terminal_ones_none_but_redrive() -> None:
    assert set(TRANSITIONS) == set(TaskStatus)
    assert {status for status in TaskStatus if not TRANSITIONS[status] - {TaskStatus.ENQUEUED}} == TERMINAL
    assert [status for status in TERMINAL if TRANSITIONS[status]] == [TaskStatus.FAILED]


def test_a_snooze_spends_no_attempt_and_its_delay_is_bounded() -> None:
    snoozed = Attempt(outcome=Outcome.SNOOZED, attempt=3, max_attempts=3, error="too early", delay_seconds=math.inf)
    decision = decide(snoozed, Backoff(), 0.5)
    assert (decision.status, decision.snoozed, decision.error) == (TaskStatus.ENQUEUED, True, "too early")
    assert (decision.delay_seconds, decision.unjittered_seconds) == (DELAY_SECONDS_MAX, None)


def test_a_retry_that_is_asked_for_counts_and_the_last_one_says_so() -> None:
    asked = Attempt(outcome=Outcome.FAILED, attempt=2, max_attempts=3, error="later", delay_seconds=7)
    assert decide(asked, Backoff(), 0.5).delay_seconds == 7
    last = decide(replace(asked, attempt=3), Backoff(), 0.5)
    assert last.status is TaskStatus.FAILED
    assert last.error == "later: attempt 3 of 3 was the last (Snooze does not count as an attempt)"


@given(st.integers(0, 50), st.integers(1, 10))
def test_attempts_that_do_not_count_do_not_lengthen_the_back_off(uncounted: int, attempt: int) -> None:
    plain = Attempt(outcome=Outcome.FAILED, attempt=attempt, max_attempts=99, error="boom")
    later = replace(plain, attempt=attempt + uncounted, uncounted=uncounted)
    assert decide(later, Backoff(), 0.5).delay_seconds == decide(plain, Backoff(), 0.5).delay_seconds


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_error_that_cannot_be_read_is_described_all_the_same() -> None:
    assert describe(Unspeakable()) == "Unspeakable: its message cannot be read: SystemExit"

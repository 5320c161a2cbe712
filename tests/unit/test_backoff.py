"""Back-off: bounded, never negative, and jitter only ever shortens."""

import math

from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.backoff import Backoff, Strategy
from dtq.domain.limits import DELAY_SECONDS_MAX

seconds = st.floats(min_value=0, max_value=1e9, allow_nan=False)
policies = st.builds(
    Backoff,
    strategy=st.sampled_from(Strategy),
    delays_seconds=st.lists(seconds, min_size=1, max_size=20).map(tuple),
    delay_seconds=seconds,
    base_seconds=seconds,
    factor=st.floats(min_value=1, max_value=100, allow_nan=False),
    max_seconds=seconds,
    jitter_percent=st.floats(min_value=0, max_value=100, allow_nan=False),
)
attempts = st.integers(min_value=1, max_value=100_000)
chances = st.floats(min_value=0, max_value=1, allow_nan=False)


@given(policies, attempts, chances)
def test_a_delay_is_finite_never_negative_and_never_above_the_cap(policy: Backoff, attempt: int, chance: float) -> None:
    for delay in (policy.unjittered_seconds(attempt), policy.jittered_seconds(attempt, chance)):
        assert math.isfinite(delay)
        assert 0 <= delay <= DELAY_SECONDS_MAX


@given(policies, attempts, chances)
def test_jitter_never_adds(policy: Backoff, attempt: int, chance: float) -> None:
    assert policy.jittered_seconds(attempt, chance) <= policy.unjittered_seconds(attempt)
    assert policy.jittered_seconds(attempt, 0.0) == policy.unjittered_seconds(attempt)


@given(policies, attempts)
def test_a_later_exponential_delay_is_never_shorter_and_stays_below_its_own_maximum(
    policy: Backoff, attempt: int
) -> None:
    if policy.strategy is Strategy.EXPONENTIAL:
        assert policy.unjittered_seconds(attempt) <= policy.unjittered_seconds(attempt + 1) <= policy.max_seconds


@given(st.lists(st.floats(min_value=1, max_value=1000), min_size=1, max_size=20), st.integers(0, 50))
def test_the_last_delay_of_a_list_repeats(delays: list[float], beyond: int) -> None:
    policy = Backoff(delays_seconds=tuple(delays))
    assert [policy.unjittered_seconds(number) for number in range(1, len(delays) + 1)] == delays
    assert policy.unjittered_seconds(len(delays) + beyond) == delays[-1]


def test_the_defaults_are_the_origins() -> None:
    assert [Backoff().unjittered_seconds(number) for number in range(1, 7)] == [5, 30, 120, 600, 3600, 3600]
    assert Backoff(strategy=Strategy.FIXED).unjittered_seconds(9) == 30
    exponential = Backoff(strategy=Strategy.EXPONENTIAL)
    assert [exponential.unjittered_seconds(number) for number in range(1, 6)] == [5, 30, 180, 1080, 3600]


def test_a_power_too_large_for_a_float_is_the_maximum() -> None:
    assert Backoff(strategy=Strategy.EXPONENTIAL, factor=100).unjittered_seconds(10_000) == 3600

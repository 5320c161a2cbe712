"""Loops: what ends them, what does not, and that no step can take its loop with it."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import CollectorRegistry

from dtq.domain.errors import Unavailable
from dtq.runtime import loops
from dtq.runtime.loops import Retries, Ticker, every, wait
from dtq.runtime.metrics import LoopMetrics

CLOCK_SECONDS = 0.01
"""How much earlier than asked a timer may fire, in seconds: its clock has a resolution."""
ALONE = pytest.mark.asyncio(loop_scope="function")
"""On a loop of its own: what other tests left running on theirs sets timers too."""


async def test_a_step_that_never_ends_is_given_up_and_the_loop_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "STEP_SECONDS", 0.05)
    stop, calls = asyncio.Event(), 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.Event().wait()
        stop.set()

    await every(0.01, once, stop, name="sample")
    assert calls == 2


async def test_an_outage_does_not_end_a_loop() -> None:
    stop, calls = asyncio.Event(), 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Unavailable("nobody answers")
        stop.set()

    await every(0.01, once, stop, name="sample")
    assert calls == 2


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError, OSError(24, "Too many open files"), Exception("aiormq")])
async def test_a_bug_is_counted_and_does_not_end_a_loop(error: Exception) -> None:
    registry = CollectorRegistry()
    stop, calls = asyncio.Event(), 0

    async def once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise error
        stop.set()

    await every(0.01, LoopMetrics(registry).instrumented("sample", once), stop, name="sample")
    assert calls == 2
    assert registry.get_sample_value("dq_loop_bugs_total", {"loop": "sample"}) == 1


async def test_a_step_that_its_driver_cancels_does_not_end_its_loop() -> None:
    stop = asyncio.Event()
    steps = 0

    async def once() -> bool:
        nonlocal steps
        steps += 1
        if steps == 1:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled
        stop.set()
        return False

    await every(0.01, once, stop, name="test")
    assert steps == 2


async def test_a_loop_that_is_told_to_end_by_a_cancellation_ends() -> None:
    entered = asyncio.Event()

    async def once() -> bool:
        entered.set()
        await asyncio.Event().wait()
        return False

    loop = asyncio.create_task(every(0.01, once, asyncio.Event(), name="test"))
    await entered.wait()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


def test_pauses_double_up_to_the_longest_and_begin_anew_after_a_success() -> None:
    retries = Retries(first_seconds=0.5, longest_seconds=2.0)
    pauses = []
    for _ in range(4):
        retries.failed()
        pauses.append(retries.seconds)
    assert pauses == [0.5, 1.0, 2.0, 2.0]
    retries.succeeded()
    retries.failed()
    assert (retries.seconds, retries.failures) == (0.5, 1)


def test_only_the_first_failure_in_a_row_is_worth_a_line() -> None:
    retries = Retries()
    assert [retries.failed() for _ in range(3)] == [True, False, False]
    retries.succeeded()
    assert retries.failed()


def test_a_try_is_due_when_its_pause_is_over() -> None:
    early, late = Retries(first_seconds=0.0), Retries(first_seconds=60.0, longest_seconds=60.0)
    for retries in (early, late):
        retries.failed()
    assert (early.is_due, late.is_due) == (True, False)


def test_retries_are_over_when_the_next_one_would_come_after_the_deadline() -> None:
    retries = Retries(first_seconds=1.0, deadline_seconds=3.0)
    over = []
    for _ in range(3):
        retries.failed()
        over.append(retries.is_over)
    assert over == [False, False, True]


async def test_a_pause_ends_with_the_loop() -> None:
    retries, stop = Retries(first_seconds=60.0, longest_seconds=60.0), asyncio.Event()
    retries.failed()
    pause = asyncio.create_task(retries.pause(stop))
    stop.set()
    async with asyncio.timeout(5):
        await pause


async def test_jitter_shortens_or_lengthens_a_pause_by_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = []

    async def wait(_: asyncio.Event, seconds: float) -> bool:
        waited.append(seconds)
        return False

    monkeypatch.setattr(loops, "wait", wait)
    retries = Retries(first_seconds=1.0, jitter=0.2)
    retries.failed()
    for _ in range(50):
        await retries.pause()
    assert all(0.8 <= seconds <= 1.2 for seconds in waited)
    assert max(waited) - min(waited) > 0.05


@pytest_asyncio.fixture(loop_scope="function")
async def timers(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """In how many seconds each timer that is set from now on fires."""
    loop, found = asyncio.get_running_loop(), list[float]()
    call_at = loop.call_at

    def noted(when: float, *args: Any, **how: Any) -> asyncio.TimerHandle:
        found.append(when - loop.time())
        return call_at(when, *args, **how)

    monkeypatch.setattr(loop, "call_at", noted)
    return found


@ALONE
async def test_one_timer_ends_the_pauses_of_a_process_and_none_is_longer_than_asked(timers: list[float]) -> None:
    ticker, never = Ticker(), asyncio.Event()
    pauses = [asyncio.create_task(ticker.wait(never, 1.0)) for _ in range(3)]
    await wait(never, 0.02)
    pauses += [asyncio.create_task(ticker.wait(never, 1.0)) for _ in range(3)]
    assert await asyncio.gather(*pauses) == [False] * 6
    assert [0.5 < seconds <= 1.0 for seconds in timers if seconds > 0.1] == [True]


@ALONE
async def test_a_pause_without_a_tick_in_its_second_half_ends_by_itself(timers: list[float]) -> None:
    ticker, never = Ticker(), asyncio.Event()
    assert not await ticker.wait(never, 0.2)
    assert [0.1 < seconds <= 0.2 for seconds in timers] == [True]  # less what a busy machine takes to set it


async def test_an_event_ends_a_pause_before_its_tick() -> None:
    ticker, event = Ticker(), asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, event.set)
    async with asyncio.timeout(5):
        assert await ticker.wait(event, 60.0)


@pytest.mark.parametrize("ticks", [False, True], ids=["alone", "with a ticker"])
async def test_a_loop_is_woken_by_its_event_and_by_its_end(*, ticks: bool) -> None:
    stop, wake, steps = asyncio.Event(), asyncio.Event(), 0

    async def once() -> None:
        nonlocal steps
        steps += 1
        asyncio.get_running_loop().call_later(0.02, wake.set if steps == 1 else stop.set)

    async with asyncio.timeout(5):
        await every(60.0, once, stop, name="test", ticker=Ticker() if ticks else None, wake=wake)
    assert steps == 2


async def test_an_event_does_not_shorten_the_pause_after_an_outage() -> None:
    stop, wake, loop = asyncio.Event(), asyncio.Event(), asyncio.get_running_loop()
    at: list[float] = []

    async def once() -> None:
        at.append(loop.time())
        if len(at) == 1:
            wake.set()
            raise Unavailable("nobody answers")
        stop.set()

    await every(0.01, once, stop, name="test", wake=wake)
    assert at[1] - at[0] >= loops.RETRY_SECONDS_FIRST * (1 - loops.JITTER) - CLOCK_SECONDS


async def test_the_end_of_a_woken_loop_stops_nobody_else() -> None:
    stop, wake, begun = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def once() -> None:
        begun.set()

    looping = asyncio.create_task(every(60, once, stop, name="test", wake=wake))
    await begun.wait()
    looping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await looping
    await asyncio.sleep(0)
    assert not stop.is_set()

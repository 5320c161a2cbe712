"""Loops: what ends them, what does not, and that no step can take its loop with it."""

import asyncio

import pytest

from dtq.domain.errors import Unavailable
from dtq.runtime import loops
from dtq.runtime.loops import every


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


@pytest.mark.parametrize("error", [RuntimeError, TimeoutError])
async def test_a_bug_ends_a_loop(error: type[Exception]) -> None:
    async def once() -> None:
        raise error

    with pytest.raises(error):
        await every(0.01, once, asyncio.Event(), name="sample")


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

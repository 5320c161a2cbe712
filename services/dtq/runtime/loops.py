"""Loops: how every long-lived part runs, waits and ends.

A loop survives every error of a step. `Unavailable` is expected; any other error is a bug, logged with its traceback.
"""

import asyncio
import math
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import structlog

from dtq.domain.errors import Unavailable

JITTER: Final = 0.2
"""Random share of an interval, so that replicas do not run in step."""
TICK_SECONDS: Final = (0.9, 0.99)
"""Shortest and longest time between two ticks, in seconds: a pause of one second always finds a tick."""
RETRY_SECONDS_FIRST: Final = 0.2
"""Pause after the first failure in a row, in seconds."""
RETRY_SECONDS_MAX: Final = 15.0
"""Longest pause of a loop whose backend is down, in seconds."""

STEP_SECONDS: Final = 60.0
"""Longest step of a loop, in seconds: far longer than its statements and publishes at their bounds."""
STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop a process: from Kubernetes, and from Ctrl-C."""

_log = structlog.get_logger(__name__)

Wait = Callable[[asyncio.Event, float], Awaitable[bool]]
"""Waits for an event for a bounded time; returns whether it was set."""


class Ticker:
    """Ends the pauses of many loops together: while a process rests, its wake-ups are what it costs.

    The ticks of each process have their own phase and length, so that replicas do not run in step.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._seconds = random.uniform(*TICK_SECONDS)  # noqa: S311
        self._pauses: dict[int, set[asyncio.Timeout]] = {}
        self.late_seconds = 0.0
        """How late the last tick was."""

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for an event until the last tick within `seconds`; return whether it was set.

        A wait that has no tick in its second half lasts for `seconds`.
        """
        now = self._loop.time() - self._began
        tick = int((now + seconds) / self._seconds)
        if tick * self._seconds - now < seconds / 2:
            return await wait(event, seconds)
        with suppress(TimeoutError):
            async with asyncio.timeout(None) as pause:
                pauses = self._pauses_until(tick)
                pauses.add(pause)
                try:
                    await event.wait()
                finally:
                    pauses.discard(pause)
        return event.is_set()

    def _pauses_until(self, tick: int) -> set[asyncio.Timeout]:
        if tick not in self._pauses:
            self._pauses[tick] = set()
            self._loop.call_at(self._began + tick * self._seconds, self._end_pauses, tick)
        return self._pauses[tick]

    def _end_pauses(self, tick: int) -> None:
        now = self._loop.time()
        self.late_seconds = max(0.0, now - self._began - tick * self._seconds)
        for pause in self._pauses.pop(tick):
            pause.reschedule(now)


async def every(
    seconds: float | Callable[[], float],
    once: Callable[[], Awaitable[bool | None]],
    stop: asyncio.Event,
    *,
    name: str,
    ticker: Ticker | None = None,
    wake: asyncio.Event | None = None,
) -> None:
    """Call `once` repeatedly until `stop`.

    Args:
        seconds: the pause between two calls; there is no pause when `once` returns True: there is more to do.
        once: one bounded step of work, from stored state only: after an error, the next step starts fresh.
        stop: ends the loop after the current step.
        name: for the log.
        ticker: ends the pauses of several loops together; without one, a pause varies by JITTER.
        wake: ends a pause at once, unless the backend is down.
    """
    first_seconds = seconds() if callable(seconds) else seconds
    retries = Retries(first_seconds=max(first_seconds, RETRY_SECONDS_FIRST), jitter=JITTER)
    awake = stop if wake is None else wake
    with set_with(stop, awake):
        while not stop.is_set():
            if wake is not None:
                wake.clear()
            try:
                more = await _bounded(once, name)
            except Exception as error:  # noqa: BLE001 - a bug in one loop must not end the others
                is_first = retries.failed()
                if not isinstance(error, Unavailable):
                    _log.error("loop step crashed", loop=name, exc_info=error)
                elif is_first:
                    _log.warning("loop step failed", loop=name, reason=str(error))
                await retries.pause(stop)
                continue
            if retries.failures:
                _log.info("loop recovered", loop=name, failures=retries.failures)
                retries.succeeded()
            pause = seconds() if callable(seconds) else seconds
            if more or not pause:
                await asyncio.sleep(0)
            elif ticker is None:
                await wait(awake, _jittered(pause, JITTER))
            else:
                await ticker.wait(awake, pause)


@contextmanager
def set_with(stop: asyncio.Event, other: asyncio.Event) -> Iterator[None]:
    """Have `stop` set another event too, until the end of the block."""
    if other is stop:
        yield
        return
    stopping = asyncio.ensure_future(stop.wait())
    stopping.add_done_callback(lambda done: None if done.cancelled() else other.set())
    try:
        yield
    finally:
        stopping.cancel()


@contextmanager
def foreign_cancellation_as_error() -> Iterator[None]:
    """Pass on a cancellation only if this task itself was cancelled.

    A driver may cancel an awaited future, as aiormq does for a connection that does not close in time. Passed on, that
    cancellation would end a task that was not cancelled, and the end of a loop would go unnoticed.

    Raises:
        ConnectionError: the driver cancelled the awaited future.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise ConnectionError("the driver cancelled the call: the connection is lost") from error


async def _bounded(once: Callable[[], Awaitable[bool | None]], name: str) -> bool | None:
    """Make one step; a step that takes too long is cancelled, so that it does not block its loop for ever."""
    bound = asyncio.timeout(STEP_SECONDS)
    try:
        async with bound:
            with foreign_cancellation_as_error():
                return await once()
    except ConnectionError as error:
        raise Unavailable(f"a step of {name} was interrupted: {error}") from error
    except TimeoutError as error:
        if not bound.expired():
            raise
        raise Unavailable(f"a step of {name} took longer than {STEP_SECONDS:g} s") from error


class Retries:
    """The retries of one act: counts its failures in a row, and pauses longer after each one.

    Args:
        first_seconds: the pause after the first failure; each further pause is twice as long.
        longest_seconds: the longest pause, before jitter.
        jitter: the random share of a pause, 0..1.
        deadline_seconds: when to give up, from now on; see `is_over`.
    """

    def __init__(
        self,
        *,
        first_seconds: float = RETRY_SECONDS_FIRST,
        longest_seconds: float = RETRY_SECONDS_MAX,
        jitter: float = 0.0,
        deadline_seconds: float = math.inf,
    ) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._jitter = jitter
        self._ends_at = time.monotonic() + deadline_seconds
        self._due_at = 0.0
        self.failures = 0
        """Failures in a row."""

    def succeeded(self) -> None:
        """Count from zero again."""
        self.failures = 0

    def failed(self) -> bool:
        """Count a failure; return whether it is the first one in a row: only that one is worth a line in the log."""
        self.failures += 1
        self._due_at = time.monotonic() + self.seconds
        return self.failures == 1

    @property
    def seconds(self) -> float:
        """The pause before the next try, in seconds, without jitter; after no failure, half the first one."""
        return min(self._longest_seconds, self._first_seconds * 2.0 ** min(self.failures - 1, 10))

    @property
    def is_due(self) -> bool:
        """Whether the pause after the last failure is over."""
        return time.monotonic() >= self._due_at

    @property
    def is_over(self) -> bool:
        """Whether the next try would come after the deadline."""
        return time.monotonic() + self.seconds > self._ends_at

    async def pause(self, stop: asyncio.Event | None = None) -> None:
        """Wait before the next try, at most until `stop`."""
        await wait(stop or asyncio.Event(), _jittered(self.seconds, self._jitter))


def _jittered(seconds: float, jitter: float) -> float:
    return seconds * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311


async def wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event for a bounded time; return whether it was set."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def acquire(turns: asyncio.Semaphore, seconds: float) -> bool:
    """Wait for a turn of a semaphore for a bounded time; return whether it was acquired."""
    try:
        async with asyncio.timeout(seconds):
            return await turns.acquire()
    except TimeoutError:
        return False


def end_on_signals() -> None:
    """Let SIGTERM and SIGINT end this process at once, with exit code 0, until `StopSignals` takes over.

    For a process that still imports its code and holds nothing. PID 1 needs this: the kernel drops a signal for which
    the first process of a container has no handler. Unlike an exception, imported code cannot swallow the exit.
    """

    def on_signal(_: int, __: object) -> None:
        os.write(2, b"dtq: stopped by a signal before the start was over\n")
        os._exit(0)

    for number in STOP_SIGNALS:
        signal.signal(number, on_signal)


class StopSignals:
    """SIGTERM and SIGINT set `stop`; a second signal ends the process at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._handlers: dict[signal.Signals, object] = {}
        self._install()

    async def keep(self) -> None:
        """Install the signal handlers again if other code of this process has replaced them."""
        replaced = [number.name for number in STOP_SIGNALS if signal.getsignal(number) is not self._handlers[number]]
        if replaced:
            _log.warning("signal handlers restored", signals=replaced)
            self._install()

    def _install(self) -> None:
        for number in STOP_SIGNALS:
            self._loop.add_signal_handler(number, self._on_signal, number)
            self._handlers[number] = signal.getsignal(number)

    def _on_signal(self, number: int) -> None:
        if self.stop.is_set():
            _log.warning("second stop signal received", signal=number)
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.stop.set()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set; a second signal ends the process at once."""
    return StopSignals().stop

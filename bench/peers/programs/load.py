"""The load that a peer's client makes: `python -m bench.peers.programs.NAME_peer MODE --seconds S | --count N`.

Prints one line of JSON: tasks enqueued, tasks enqueued before the measurement, seconds, CPU seconds of this process.
"""

import argparse
import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Protocol

COROUTINES: Final = 64
"""Concurrent calls of a client with coroutines."""
THREADS: Final = 16
"""Concurrent calls of a client without: more threads only wait for the interpreter."""
BULK: Final = 1_000
"""Tasks of one bulk call."""
IDLE_SECONDS: Final = 0.02
"""Pause between two single tasks of the latency, in seconds."""


class AsyncPeer(Protocol):
    """A client with coroutines. `many` may be missing."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""


class Peer(Protocol):
    """A client that blocks; `one` is called from several threads. `many` may be missing."""

    def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""


class Budget:
    """How much to enqueue: until a time, or so many tasks."""

    def __init__(self, seconds: float | None, count: int | None) -> None:
        self._until = time.perf_counter() + seconds if seconds is not None else float("inf")
        self._count = count
        self.spent = 0

    def take(self, wanted: int = 1) -> int:
        """Return how many tasks the next call enqueues; 0 ends the load."""
        if time.perf_counter() >= self._until:
            return 0
        if self._count is not None:
            wanted = min(wanted, self._count - self.spent)
        self.spent += wanted
        return wanted


def payload() -> dict[str, int]:
    """Return the payload of every task: when it was sent, in nanoseconds."""
    return {"sent_ns": time.time_ns()}


def payloads(count: int) -> list[dict[str, int]]:
    """Return the payloads of one bulk call."""
    return [payload() for _ in range(count)]


def main_async(peer: AsyncPeer) -> None:
    """Run the load that the command line names."""
    asked = _asked()
    asyncio.run(_run_async(peer, asked))


async def _run_async(peer: Any, asked: argparse.Namespace) -> None:
    await peer.open()
    try:
        await peer.one(payload())  # opens what is opened lazily
        with _Measured(asked) as budget:
            await _LOADS[asked.mode](peer, budget)
    finally:
        await peer.close()


async def _single(peer: Any, budget: Budget) -> None:
    while budget.take():
        await peer.one(payload())


async def _concurrent(peer: Any, budget: Budget) -> None:
    await asyncio.gather(*(_single(peer, budget) for _ in range(COROUTINES)))


async def _bulk(peer: Any, budget: Budget) -> None:
    while count := budget.take(BULK):
        await peer.many(payloads(count))


async def _idle(peer: Any, budget: Budget) -> None:
    while budget.take():
        await peer.one(payload())
        await asyncio.sleep(IDLE_SECONDS)


_LOADS: Final[dict[str, Callable[[Any, Budget], Awaitable[None]]]] = {
    "single": _single,
    "concurrent": _concurrent,
    "bulk": _bulk,
    "idle": _idle,
}


def main_blocking(peer: Any) -> None:
    """Run the load that the command line names."""
    asked = _asked()
    if asked.mode == "concurrent":
        _block_concurrent(peer, asked)
        return
    peer.one(payload())  # opens what is opened lazily
    with _Measured(asked) as budget:
        if asked.mode == "bulk":
            while count := budget.take(BULK):
                peer.many(payloads(count))
        else:
            _block_single(peer, budget, IDLE_SECONDS if asked.mode == "idle" else 0.0)


def _block_concurrent(peer: Peer, asked: argparse.Namespace) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        together = threading.Barrier(THREADS)

        def warm() -> None:
            peer.one(payload())  # opens what each thread opens lazily
            together.wait()

        for done in [pool.submit(warm) for _ in range(THREADS)]:
            done.result()
        with _Measured(asked, before=THREADS) as budget:
            for done in [pool.submit(_block_single, peer, budget) for _ in range(THREADS)]:
                done.result()


def _block_single(peer: Any, budget: Budget, pause_seconds: float = 0.0) -> None:
    while budget.take():
        peer.one(payload())
        if pause_seconds:
            time.sleep(pause_seconds)


class _Measured:
    """Measures a block and prints the figures."""

    def __init__(self, asked: argparse.Namespace, *, before: int = 1) -> None:
        self._asked = asked
        self._before = before

    def __enter__(self) -> Budget:
        self._budget = Budget(self._asked.seconds, self._asked.count)
        self._began, self._cpu = time.perf_counter(), time.process_time()
        return self._budget

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            took, cpu = time.perf_counter() - self._began, time.process_time() - self._cpu
            figures = {"count": self._budget.spent, "before": self._before, "seconds": took, "cpu_seconds": cpu}
            print(json.dumps(figures), flush=True)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=sorted(_LOADS))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--count", type=int)
    return parser.parse_args()

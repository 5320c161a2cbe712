"""An open-loop load: `python -m bench.open_loop URL --rate R --seconds S` sends each request when it is due.

The time in a payload is when the request was due, so that a server that falls behind is charged for every request that
had to wait for it (coordinated omission). Requests come at random, as from many independent clients.
"""

import argparse
import asyncio
import json
import random
import threading
import time
from collections import deque
from typing import Final

from bench.http_connection import HttpConnection
from bench.peers.programs.dtq_peer import CREATED, TYPE

CONNECTIONS: Final = 128
DRAIN_SECONDS: Final = 30.0
"""How long the last answers may take, in seconds."""
SEED: Final = 7


class OpenLoop:
    """Sends each request when it is due, or as soon as a connection is free."""

    def __init__(self, connections: list[HttpConnection]) -> None:
        self._idle = connections
        self._waiting: deque[int] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.accepted = 0
        self.refused = 0

    def due(self, due_ns: int) -> None:
        """Send a request, or keep it until a connection is free."""
        if not self._idle:
            self._waiting.append(due_ns)
            return
        task = asyncio.ensure_future(self._send(self._idle.pop(), due_ns))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, connection: HttpConnection, due_ns: int) -> None:
        while True:
            body = json.dumps({"type": TYPE, "payload": {"sent_ns": due_ns}}).encode()
            status, _ = await connection.post("/enqueue", body)
            if status == CREATED:
                self.accepted += 1
            else:
                self.refused += 1
            if not self._waiting:
                break
            due_ns = self._waiting.popleft()
        self._idle.append(connection)

    async def finish(self) -> None:
        """Wait for the last answers."""
        async with asyncio.timeout(DRAIN_SECONDS):
            while self._tasks:
                await asyncio.wait(set(self._tasks))


def _tick(loop: asyncio.AbstractEventLoop, load: OpenLoop, rate: float, seconds: float, done: asyncio.Event) -> None:
    """Announce each request at its time. A thread, because the timers of an event loop are a millisecond late."""
    chance = random.Random(SEED)  # noqa: S311 - arrivals, not secrets
    began_ns, due = time.time_ns(), 0.0
    while (due := due + chance.expovariate(rate)) < seconds:
        due_ns = began_ns + int(due * 1e9)
        if (ahead_ns := due_ns - time.time_ns()) > 0:
            time.sleep(ahead_ns / 1e9)
        loop.call_soon_threadsafe(load.due, due_ns)
    loop.call_soon_threadsafe(done.set)


async def _run(url: str, rate: float, seconds: float) -> dict[str, float]:
    connections = [await HttpConnection.open(url) for _ in range(CONNECTIONS)]
    load, done = OpenLoop(connections), asyncio.Event()
    began = time.perf_counter()
    threading.Thread(target=_tick, args=(asyncio.get_running_loop(), load, rate, seconds, done), daemon=True).start()
    await done.wait()
    await load.finish()
    took = time.perf_counter() - began
    for connection in connections:
        connection.close()
    return {"accepted": load.accepted, "refused": load.refused, "seconds": took}


def main() -> None:
    """Run the load, and print what became of it."""
    parser = argparse.ArgumentParser(prog="python -m bench.open_loop", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--rate", type=float, required=True, help="requests a second")
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(_run(given.url, given.rate, given.seconds))))


if __name__ == "__main__":
    main()

"""The attacked tenant: enqueues at a steady rate, whatever the answers, and notes how long each took."""

import asyncio
import math
import statistics
from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Final

from bench.attack.client import Client
from bench.attack.world import VICTIM_TYPE

PER_SECOND: Final = 20
"""Requests per second."""


@dataclass(slots=True, kw_only=True)
class Seen:
    """What the victim saw: milliseconds from when each request was due to its answer, and the answers by status."""

    milliseconds: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def server_errors(self) -> int:
        """How many requests were answered 5xx, or not at all."""
        return sum(count for status, count in self.statuses.items() if not status.startswith(("2", "4")))

    @property
    def p99(self) -> float:
        """The 99th percentile of the milliseconds."""
        return sorted(self.milliseconds)[math.ceil(len(self.milliseconds) * 0.99) - 1]

    def figures(self) -> dict[str, Any]:
        """Return the figures to print."""
        return {
            "requests": len(self.milliseconds),
            "p50_ms": round(statistics.median(self.milliseconds), 1),
            "p99_ms": round(self.p99, 1),
            "max_ms": round(max(self.milliseconds), 1),
            "statuses": dict(self.statuses),
        }


async def enqueue_steadily(port: int, token: str, name: str, seconds: int) -> Seen:
    """Enqueue PER_SECOND tasks per second with the keys `NAME-0`, `NAME-1`, …; late answers delay no request."""
    seen = Seen()
    idle: list[Client] = []

    async def enqueue(number: int, due: float) -> None:
        client = idle.pop() if idle else Client("127.0.0.1", port, token)
        status = await client.enqueue(type=VICTIM_TYPE, payload={"n": number}, idempotency_key=f"{name}-{number}")
        seen.milliseconds.append((perf_counter() - due) * 1e3)
        seen.statuses[status] += 1
        idle.append(client)

    began = perf_counter()
    async with asyncio.TaskGroup() as requests:
        for number in range(seconds * PER_SECOND):
            due = began + number / PER_SECOND
            await asyncio.sleep(max(0.0, due - perf_counter()))
            requests.create_task(enqueue(number, due))
    for client in idle:
        client.close()
    return seen

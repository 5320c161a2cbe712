"""The client of the fault runs: posts at a steady rate, records every request and every answer, and repeats a request
without an answer by its idempotency key.

A request without an answer counts as neither accepted nor refused.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx2

from dtq.runtime.loops import wait
from tests.faults.history import Call

ANSWER_SECONDS: Final = 40.0
"""How long the client waits for an answer, in seconds: far longer than any answer may take, so that a hang shows."""
IN_FLIGHT_MAX: Final = 200
"""Most requests at a time; beyond it the client holds its pace back."""
AGAIN_SECONDS: Final = 0.5
"""Pause before the same key is posted again, in seconds."""
MIX: Final = {
    "fault.ok.v1": 50,
    "fault.thread.v1": 20,
    "fault.flaky.v1": 14,
    "fault.slow.v1": 9,
    "fault.process.v1": 2,
    "fault.fail.v1": 5,
}
"""How often each task type is posted, in percent."""
KEYED: Final = 0.5
"""Share of requests with an idempotency key."""
LATER: Final = 0.1
"""Share of requests with a `run_at`."""
LATER_SECONDS: Final = (0.5, 3.0)
"""How far ahead it is, in seconds."""

IN_DOUBT: Final = "OutcomeUnknown"
"""The problem type of an answer that does not know whether something was left behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request to enqueue, as often as it is posted.

    Attributes:
        op: its number; the payload holds it too, so that a row can be led back to its request.
    """

    op: int
    type: str
    queue: str
    key: str | None
    run_at: datetime | None

    @property
    def payload(self) -> dict[str, Any]:
        """The payload, which says which request it belongs to."""
        return {"op": self.op}

    @property
    def body(self) -> dict[str, Any]:
        """The body of the request."""
        body: dict[str, Any] = {"type": self.type, "payload": self.payload, "queue": self.queue}
        if self.key is not None:
            body["idempotency_key"] = self.key
        if self.run_at is not None:
            body["run_at"] = self.run_at.isoformat()
        return body


@dataclass(kw_only=True)
class Load:
    """Posts to several APIs in turn.

    Attributes:
        run: names this run in idempotency keys.
        statuses: answers by status; 0 stands for none.
        slowest_seconds: the longest wait for an answer.
    """

    run: str
    addresses: Sequence[str]
    record: Callable[[Call], None]
    per_second: float
    chance: random.Random
    statuses: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    accepted: int = 0
    _ops: int = 0
    _calls: int = 0
    _doubtful: dict[int, Question] = field(default_factory=dict)

    async def post(self, stop: asyncio.Event) -> None:
        """Post at the given pace until `stop`, then wait for the answers that are due."""
        limits = httpx2.Limits(max_connections=IN_FLIGHT_MAX, max_keepalive_connections=IN_FLIGHT_MAX)
        places = asyncio.Semaphore(IN_FLIGHT_MAX)
        async with (
            httpx2.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as client,
            asyncio.TaskGroup() as asking,
        ):
            while not stop.is_set():
                await places.acquire()
                asking.create_task(self._ask(client, self._question())).add_done_callback(lambda _: places.release())
                await wait(stop, self.chance.uniform(0.5, 1.5) / self.per_second)

    async def resolve(self, seconds: float) -> int:
        """Post again what is in doubt and has a key, for a bounded time; return how much is left in doubt."""
        stop = asyncio.Event()
        asyncio.get_running_loop().call_later(seconds, stop.set)
        async with httpx2.AsyncClient(timeout=ANSWER_SECONDS) as client:
            while self._doubtful and not stop.is_set():
                await asyncio.gather(
                    *(self._ask(client, call) for call in list(self._doubtful.values())[:IN_FLIGHT_MAX])
                )
                if self._doubtful:
                    await wait(stop, AGAIN_SECONDS)
        return len(self._doubtful)

    def _question(self) -> Question:
        self._ops += 1
        (type_,) = self.chance.choices(list(MIX), weights=list(MIX.values()))
        later = timedelta(seconds=self.chance.uniform(*LATER_SECONDS))
        return Question(
            op=self._ops,
            type=type_,
            queue=self.chance.choice(("high", "default")),
            key=f"{self.run}-{self._ops}" if self.chance.random() < KEYED else None,
            run_at=datetime.now(UTC) + later if self.chance.random() < LATER else None,
        )

    async def _ask(self, client: httpx2.AsyncClient, question: Question) -> None:
        """Post once, and write down what was heard."""
        address = self.addresses[self.chance.randrange(len(self.addresses))]
        self._calls += 1
        number, started_at, began = self._calls, time.time(), time.monotonic()
        answer: httpx2.Response | None = None
        heard: dict[str, Any] = {}
        try:
            answer = await client.post(f"http://{address}/enqueue", json=question.body)
            heard = _heard(answer)
        except httpx2.HTTPError as broken:
            heard = {"error": f"{type(broken).__name__}: {broken}"}
        seconds = time.monotonic() - began
        self.record(
            Call(
                n=number,
                started_at=started_at,
                ended_at=started_at + seconds,
                type=question.type,
                payload=question.payload,
                api=address,
                key=question.key,
                queue=question.queue,
                run_at=question.run_at,
                **heard,
            )
        )
        self.slowest_seconds = max(self.slowest_seconds, seconds)
        self.statuses[0 if answer is None else answer.status_code] += 1
        if answer is not None and answer.status_code == httpx2.codes.CREATED:
            self.accepted += 1
            self._doubtful.pop(question.op, None)
        elif question.key is not None:
            self._doubtful[question.op] = question


def _heard(answer: httpx2.Response) -> dict[str, Any]:
    """Return what an answer says."""
    try:
        document = answer.json()
    except ValueError:
        return {"status": answer.status_code, "error": f"no JSON: {answer.text[:200]}"}
    return {
        "status": answer.status_code,
        "task_id": document.get("id"),
        "replayed": answer.headers.get("idempotency-replayed") == "true",
        "retry_after": answer.headers.get("retry-after"),
        "error": document.get("error"),
        "doubt": str(document.get("type")).endswith(f"/{IN_DOUBT}"),
    }

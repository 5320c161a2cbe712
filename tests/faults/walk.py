"""The system on which failpoints are walked: a healthy API and worker, and victims that break beside them.

Every request is recorded in a history, which the checker judges. Every wait is bounded.
"""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID, uuid4

import asyncpg
import httpx2

from dtq.runtime.loops import wait
from dtq_db import attempts
from dtq_db.attempts import Claim, LeaseStore
from dtq_db.connections import Database, DedicatedConnection
from tests.faults import history
from tests.faults.checker import Verdict, check_folder
from tests.faults.history import Call, DeadLetter, Exit, Injected, Lines, Metric, Run, Span, TypePolicy
from tests.faults.invariants.index import Limits
from tests.support.addresses import BrokerVhost
from tests.support.system import Process, System
from tests.support.waiting import eventually

ANSWER_SECONDS: Final = 25.0
"""How long the client waits for an answer, in seconds: longer than any answer may take."""
REACH_SECONDS: Final = 90.0
"""How long a failpoint may take to be reached, in seconds."""
END_SECONDS: Final = 60.0
"""How long a process may take to end, in seconds."""
QUIET_SECONDS: Final = 150.0
"""How long the tasks may take to end after the last fault, in seconds: bounds, leases and retries."""
AGAIN_SECONDS: Final = 0.7
"""Pause before a trigger is pulled again, in seconds."""
DELAYS_SECONDS: Final = [1.0, 2.0]
SHELF: Final = "shelf"
"""A queue without a consumer that is soon full."""
CRON: Final = "yearly"
LEFT: Final = """
SELECT count(*) FROM tasks
WHERE status IN ('ENQUEUED', 'RUNNING') OR (status = 'FAILED' AND dead_lettered_at IS NULL)
"""
OK, FLAKY, FAIL, SLOW, BRIEF = (f"fault.{name}.v1" for name in ("ok", "flaky", "fail", "slow", "thread"))
MAX_ATTEMPTS: Final = {OK: 10, FLAKY: 10, FAIL: 2, SLOW: 10, BRIEF: 10}


@dataclass(kw_only=True)
class Victim:
    """A process with armed failpoints.

    Attributes:
        told: it was told to end: a second signal would end it at once.
        ended: its end is written down.
    """

    name: str
    process: Process
    told: bool = False
    ended: bool = False

    def tell_to_end(self) -> None:
        """Send SIGTERM, once."""
        if not self.told:
            self.told = True
            self.process.popen.terminate()

    @property
    def address(self) -> str:
        """The address of the process."""
        return self.process.address

    def has_reached(self, point: str) -> bool:
        """Whether it has reached a failpoint, which it reports before it acts."""
        return f'"failpoint": "{point}"' in self.process.log.read_text(errors="replace")


@dataclass(kw_only=True)
class Walk:
    """The stage of one walk.

    Attributes:
        sql: looks at the rows, and makes time pass.
    """

    folder: Path
    system: System
    dsn: str
    broker: BrokerVhost
    sql: "asyncpg.Connection[asyncpg.Record]"
    api: Process
    client: httpx2.AsyncClient
    calls: list[Call] = field(default_factory=list)
    faults: list[Injected] = field(default_factory=list)
    exits: list[Exit] = field(default_factory=list)
    victims: list[Victim] = field(default_factory=list)
    asking: set["asyncio.Task[Call]"] = field(default_factory=set)
    began_at: float = 0.0
    _ops: int = 0
    _handler_offset: int = 0

    async def begin(self) -> None:
        """Begin a history of its own."""
        await self.sql.execute("TRUNCATE tasks, task_events")
        for queue in ("tasks.dlq", f"tasks.{SHELF}"):
            await asyncio.to_thread(self.empty, queue)
        for kept in (self.calls, self.faults, self.exits, self.victims):
            kept.clear()
        log = self.system.handler_log
        self._handler_offset = log.stat().st_size if log.exists() else 0
        self.began_at = time.time()

    async def healthy_worker(self) -> Process:
        """Start a worker that nothing breaks."""
        worker = self.system.worker()
        await worker.ready()
        return worker

    async def start(self, role: str, failpoints: str, *, ready: bool = True, point: str = "") -> Victim:
        """Start a victim; wait until it is ready, or at `point`: a lost worker may be there to be reaped at once."""
        start = self.system.api if role == "api" else self.system.worker
        process = start(DTQ_FAILPOINTS=failpoints)
        victim = Victim(name=f"{role}-{len(self.system.processes)}", process=process)
        self.victims.append(victim)
        if ready:
            try:
                await process.ready()
            except AssertionError:
                if not (point and victim.has_reached(point)):
                    raise
        return victim

    async def reach(self, victim: Victim, point: str, trigger: "Trigger") -> None:
        """Call the trigger until the victim has reached the failpoint, and record the fault."""
        pulled = asyncio.get_running_loop().time()
        while not victim.has_reached(point):
            if asyncio.get_running_loop().time() - pulled > REACH_SECONDS:
                tail = victim.process.log.read_text(errors="replace")[-2000:]
                raise AssertionError(f"{point} was not reached within {REACH_SECONDS:g} s; {victim.name}:\n{tail}")
            await trigger(self, victim)
            await wait(asyncio.Event(), AGAIN_SECONDS)
        self.faults.append(Injected(at=time.time(), until=time.time(), name="failpoint", target=point))

    def ask(self, address: str, type_: str = OK, **fields: Any) -> "asyncio.Task[Call]":
        """Post, without waiting for the answer."""
        self._ops += 1
        op = fields.pop("op", self._ops)
        call = asyncio.ensure_future(self._ask(len(self.calls) + len(self.asking) + 1, op, address, type_, **fields))
        self.asking.add(call)
        call.add_done_callback(self.asking.discard)
        return call

    async def _ask(
        self,
        number: int,
        op: int,
        address: str,
        type_: str,
        *,
        queue: str = "default",
        key: str | None = None,
        max_attempts: int | None = None,
        run_at: datetime | None = None,
    ) -> Call:
        payload = {"op": op, "canary": f"canary-{op}-of-a-payload"}
        body: dict[str, Any] = {"type": type_, "payload": payload, "queue": queue}
        body |= {"idempotency_key": key} if key else {}
        body |= {"max_attempts": max_attempts} if max_attempts else {}
        body |= {"run_at": run_at.isoformat()} if run_at else {}
        started_at, began = time.time(), time.monotonic()
        heard: dict[str, Any]
        try:
            answer = await self.client.post(f"http://{address}/enqueue", json=body)
            document = answer.json()
            heard = {
                "status": answer.status_code,
                "task_id": document.get("id"),
                "replayed": answer.headers.get("idempotency-replayed") == "true",
                "retry_after": answer.headers.get("retry-after"),
                "error": document.get("error"),
                "doubt": str(document.get("type")).endswith("/OutcomeUnknown"),
            }
        except (httpx2.HTTPError, ValueError) as error:
            heard = {"error": f"{type(error).__name__}: {error}"}
        ended_at = started_at + time.monotonic() - began
        call = Call(
            n=number, started_at=started_at, ended_at=ended_at, type=type_, payload=payload, api=address, key=key,
            queue=queue, max_attempts=max_attempts, run_at=run_at, **heard,
        )  # fmt: skip
        self.calls.append(call)
        return call

    async def tell(self, address: str, path: str, body: Any = None) -> None:
        """Send a request that is not about a task; a process that does not answer is a victim."""
        try:
            await self.client.post(f"http://{address}{path}", json=body)
        except httpx2.HTTPError:
            return

    def meanwhile(self, work: Awaitable[Any]) -> None:
        """Do something without waiting for it."""
        task = asyncio.ensure_future(work)
        self.asking.add(task)
        task.add_done_callback(self.asking.discard)

    async def lose_a_worker(self) -> None:
        """Let a foreign worker claim a task of the shelf and lose its lease."""
        call = await self.ask(self.api.address, queue=SHELF, max_attempts=1)
        if call.task_id is None:
            return
        async with self.stranger([OK]) as (worker_id, dedicated):
            await attempts.claim(dedicated, worker_id, [UUID(call.task_id)], [OK])

    async def lose_a_crowd(self) -> None:
        """Let a foreign worker lose its lease while it holds several tasks: each becomes a suspect.

        They wait on the shelf, without a worker, until the foreign worker has them; then they move to the served queue.
        """
        calls = await asyncio.gather(*(self.ask(self.api.address, queue=SHELF) for _ in range(2)))
        ids = [UUID(call.task_id) for call in calls if call.task_id is not None]
        async with self.stranger([OK]) as (worker_id, dedicated):
            await attempts.claim(dedicated, worker_id, ids, [OK])
            await self.sql.execute("UPDATE tasks SET queue = 'default' WHERE id = ANY ($1) AND status = 'RUNNING'", ids)

    @asynccontextmanager
    async def stranger(self, types: list[str]) -> AsyncIterator[tuple[UUID, DedicatedConnection]]:
        """Hold a lease as a foreign worker until the block ends."""
        worker_id, leases = uuid4(), LeaseStore(self.dsn)
        async with Database(self.dsn, name="stranger") as database:
            await leases.register(
                worker_id, name="stranger:0", namespace="tasks", queues=[SHELF], types=types, concurrency=1
            )
            long = "UPDATE workers SET lease_expires_at = now() + interval '10 minutes' WHERE id = $1"
            await self.sql.execute(long, worker_id)
            yield worker_id, database.dedicated("claim")
            await leases.expire(worker_id)
            await leases.close()

    def note(self, claim: Claim, phase: Literal["start", "end"]) -> None:
        """Record what a foreign worker's handler does."""
        outcome = "succeeded" if phase == "end" else None
        with Lines[Run](self.system.handler_log) as log:
            run = Run(task_id=str(claim.id), attempt=claim.attempt, pid=0, phase=phase, at=time.time(), outcome=outcome)
            log.write(run)

    async def end(self, victim: Victim, *, told: bool) -> int:
        """End a victim by SIGTERM if `told`, else by SIGKILL; return its exit code."""
        victim.ended = True
        began = time.monotonic()
        if victim.process.popen.poll() is None:
            if told:
                victim.tell_to_end()
            else:
                victim.process.popen.kill()
        code = await self.has_ended(victim)
        self.exits.append(
            Exit(
                at=time.time(), process=victim.name, pid=victim.process.popen.pid, told="term" if told else "kill",
                code=code, seconds=time.monotonic() - began,
            )
        )  # fmt: skip
        return code

    async def has_ended(self, victim: Victim) -> int:
        """Wait until a victim has ended; return its exit code."""
        popen = victim.process.popen

        async def is_over() -> bool:
            return popen.poll() is not None

        await eventually(is_over, f"{victim.name} ends", END_SECONDS)
        assert popen.returncode is not None
        return popen.returncode

    async def quiet(self) -> None:
        """Enqueue a few more tasks, and wait until every task has ended."""
        for _ in range(5):
            self.ask(self.api.address)
        assert await self.rest(QUIET_SECONDS), f"not every task is at its end within {QUIET_SECONDS:g} s"

    async def rest(self, seconds: float) -> bool:
        """Cancel the tasks of the shelf; return whether every task ended in time."""
        while self.asking:
            await asyncio.wait(set(self.asking))
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for row in await self.sql.fetch("SELECT id FROM tasks WHERE queue = $1 AND status = 'ENQUEUED'", SHELF):
                await self.tell(self.api.address, f"/tasks/{row['id']}/cancel")
            if await self.sql.fetchval(LEFT) == 0:
                return True
            await wait(asyncio.Event(), AGAIN_SECONDS)
        return False

    async def judge(self, name: str, limits: Limits, *, metrics: Sequence[Metric] = ()) -> Verdict:
        """Save the history, judge it, and clear it."""
        folder = self.folder / name
        for table in ("tasks", "task_events", "workers"):
            rows = await self.sql.fetch(f"SELECT to_jsonb(t)::text FROM {table} t")
            history.write(folder, {"task_events": "events"}.get(table, table), [row[0] for row in rows])
        history.write(folder, "client", self.calls)
        history.write(folder, "faults", self.faults)
        history.write(folder, "exits", self.exits)
        history.write(folder, "metrics", metrics)
        history.write(folder, "dlq", await asyncio.to_thread(self._dead_letters))
        history.write(folder, "span", [Span(started_at=self.began_at, ended_at=time.time())])
        policies = MAX_ATTEMPTS.items()
        history.write(
            folder,
            "types",
            [TypePolicy(type=type_, max_attempts=most, delays_seconds=DELAYS_SECONDS) for type_, most in policies],
        )
        with self.system.handler_log.open("rb") as log:
            log.seek(self._handler_offset)
            (folder / "handler.jsonl").write_bytes(log.read())
        for victim in self.victims:
            (folder / f"{victim.name}.log").write_bytes(victim.process.log.read_bytes())
        return check_folder(folder, limits)

    def empty(self, queue: str) -> None:
        """Purge a queue, if it exists."""
        if queue in self.queues():
            self.broker.management.call("DELETE", f"/api/queues/{self.broker.vhost}/{queue}/contents")

    def queues(self) -> set[str]:
        """Return which queues there are."""
        return {queue["name"] for queue in self.broker.management.call("GET", f"/api/queues/{self.broker.vhost}")}

    def count(self, queue: str) -> int:
        """Return how many messages a queue holds by the broker's statistics, which are a little late."""
        queues = self.broker.management.call("GET", f"/api/queues/{self.broker.vhost}")
        return sum(entry.get("messages", 0) for entry in queues if entry["name"] == queue)

    def drop(self, queue: str) -> None:
        """Delete a queue by hand, if it is there."""
        if queue in self.queues():
            self.broker.management.call("DELETE", f"/api/queues/{self.broker.vhost}/{queue}")

    def _dead_letters(self) -> list[DeadLetter]:
        asked = {"count": 10_000, "ackmode": "ack_requeue_true", "encoding": "auto"}
        found = self.broker.management.call("POST", f"/api/queues/{self.broker.vhost}/tasks.dlq/get", asked)
        return [DeadLetter(id=json.loads(message["payload"])["id"]) for message in found]


Trigger = Callable[[Walk, Victim], Awaitable[None]]
"""Makes a victim reach a failpoint; it may have to be called repeatedly."""


def fresh_key() -> str:
    """Return a new idempotency key."""
    return secrets.token_hex(8)

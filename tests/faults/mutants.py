"""The mutants: copies of dtq that lack one thing on which the guarantee rests, and the scene that shows it.

A scene also runs on correct code, where the checker must find nothing. The code of this checkout is not changed.
"""

import asyncio
import os
import re
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import httpx2
from prometheus_client.parser import text_string_to_metric_families

from dtq.domain.decisions import Decision
from dtq.domain.states import Outcome, TaskStatus
from dtq.runtime.loops import wait
from dtq_db import attempts
from dtq_db.attempts import Completion
from tests.faults.history import Injected, Metric
from tests.faults.triggers import nothing
from tests.faults.walk import SHELF, SLOW, Walk
from tests.support.system import REPOSITORY
from tests.support.waiting import eventually

ROOTS: Final = ("services", "db", "operator")
SOON_SECONDS: Final = 15.0
"""A task whose message is there is claimed within this; one whose message is lost waits twice as long at the least."""
SCENE_SECONDS: Final = 60.0
"""Longest wait of a scene for one thing, in seconds."""
REST_SECONDS: Final = 75.0
"""How long a scene's tasks may take to end, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change that the suite must notice.

    Attributes:
        file: of this checkout; empty if the change is in the database.
        before, after: what is replaced, which must be there exactly once.
        finish: changes the SQL function `dtq_finish`.
    """

    scene: Callable[[Walk], Awaitable[None]]
    file: str = ""
    before: str = ""
    after: str = ""
    finish: Callable[[str], str] | None = None

    def copy_to(self, folder: Path) -> dict[str, str]:
        """Make the changed copy; return the environment in which processes run it."""
        if not self.file:
            return {}
        for root in ROOTS:
            shutil.copytree(REPOSITORY / root, folder / root, ignore=shutil.ignore_patterns("__pycache__"))
        path = folder / self.file
        text = path.read_text()
        assert text.count(self.before) == 1, f"{self.file} has changed: the mutant must follow it"
        path.write_text(text.replace(self.before, self.after))
        return {"PYTHONPATH": os.pathsep.join([*(str(folder / root) for root in ROOTS), str(REPOSITORY)])}


async def a_late_result(walk: Walk) -> None:
    """A worker loses its lease before it writes, and writes while another runs the task."""
    late = await walk.start("worker", "finish.decided=slow(25)@1")
    call = await walk.ask(walk.api.address, SLOW)
    assert call.task_id is not None, call
    await walk.reach(late, "finish.decided", nothing)
    # It takes nothing new, so that the other one gets the task.
    late.tell_to_end()
    await walk.sql.execute("UPDATE workers SET lease_expires_at = now() WHERE id IN (SELECT worker_id FROM tasks)")
    await _until(walk, "SELECT status = 'ENQUEUED' AND run_at <= now() FROM tasks")
    async with walk.stranger([SLOW]) as (worker_id, dedicated):
        (claim,) = await attempts.claim(dedicated, worker_id, [UUID(call.task_id)], [SLOW])
        walk.note(claim, "start")
        assert await walk.has_ended(late) == 0
        walk.note(claim, "end")
        decision = Decision(status=TaskStatus.SUCCEEDED, outcome=Outcome.SUCCEEDED, result='{"attempt": 2}')
        ended = Completion(worker_id=worker_id, id=claim.id, attempt=claim.attempt, decision=decision)
        await attempts.finish(dedicated, [ended])


async def a_worker_dies_before_its_claim(walk: Walk) -> None:
    """A worker that has taken messages and claimed nothing is killed; another is there."""
    taker = await walk.start("worker", "claim.taken=slow(12)@1")
    calls = [walk.ask(walk.api.address) for _ in range(8)]
    await walk.reach(taker, "claim.taken", nothing)
    await asyncio.gather(*calls)
    await _until(walk, "SELECT count(*) = 0 FROM tasks WHERE needs_publish")
    other = walk.system.worker()
    await walk.end(taker, told=False)
    await other.ready()
    # The start of the second worker does not count as waiting for a message.
    walk.faults.append(Injected(at=time.time(), until=time.time(), name="kill"))


async def a_queue_is_gone(walk: Walk) -> None:
    """An empty queue was deleted by hand; a 201 still promises that the task will run."""
    for _ in range(2):
        # The topology watch repairs the first deletion, and has just looked when the second happens.
        await _exists(walk, SHELF)
        await asyncio.to_thread(walk.drop, f"tasks.{SHELF}")
    await asyncio.gather(*(walk.ask(walk.api.address, queue=SHELF) for _ in range(2)))
    until = time.monotonic() + SCENE_SECONDS
    while time.monotonic() < until:
        found = await asyncio.to_thread(walk.count, f"tasks.{SHELF}")
        if found >= 2:
            break
        await wait(asyncio.Event(), 0.5)


async def a_task_is_due_later(walk: Walk) -> None:
    """A task is posted for a moment later on."""
    await walk.healthy_worker()
    await walk.ask(walk.api.address, run_at=datetime.now(UTC) + timedelta(seconds=5))


def without_fence(definition: str) -> str:
    """Return `dtq_finish` without the check whose attempt ends."""
    pattern = r"t\.worker_id = a\.worker_id\s+AND t\.attempts = a\.attempts\s+AND t\.status = 'RUNNING'"
    changed, count = re.subn(pattern, "t.status = 'RUNNING'", definition)
    assert count == 2, "dtq_finish has changed: the mutant must follow it"
    return changed


_ACK: Final = "                await self._consumer.ack(deliveries)\n"
_TAKEN: Final = '                await failpoints.hit("claim.taken")\n'
_CLAIM: Final = (
    "                claims = await store.claim(self._dedicated, worker_id, ids, types) if ids else []\n"
    '                await failpoints.hit("claim.committed")\n'
)
_RELAY: Final = (
    "        due = await maintenance.relay(self._dedicated, hold_seconds=2 * RELAY_GRACE_SECONDS, without=closed)\n"
)
MUTANTS: Final = {
    "without the fence": Mutant(scene=a_late_result, finish=without_fence),
    "ack before claim": Mutant(
        scene=a_worker_dies_before_its_claim,
        file="services/dtq_worker/intake.py",
        before=_TAKEN + _CLAIM + _ACK,
        after=_ACK + _TAKEN + _CLAIM,
    ),
    "without mandatory": Mutant(
        scene=a_queue_is_gone,
        file="services/dtq/broker/frames.py",
        before='_MANDATORY: Final = b"\\x01"',
        after='_MANDATORY: Final = b"\\x00"',
    ),
    "without the relay": Mutant(
        scene=a_task_is_due_later,
        file="services/dtq_maintenance/relay.py",
        before=_RELAY,
        after="        due: list[Due] = []\n",
    ),
}


async def metrics_of(walk: Walk) -> list[Metric]:
    """Return what the API counts."""
    async with httpx2.AsyncClient(timeout=10) as client:
        text = (await client.get(f"http://{walk.api.address}/metrics")).text
    return [
        Metric(process="api", pid=walk.api.popen.pid, name=sample.name, labels=sample.labels, value=sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


async def _exists(walk: Walk, queue: str) -> None:
    async def is_declared() -> bool:
        return f"tasks.{queue}" in await asyncio.to_thread(walk.queues)

    await eventually(is_declared, f"queue {queue} is declared", SCENE_SECONDS)


async def _until(walk: Walk, query: str) -> None:
    await eventually(lambda: walk.sql.fetchval(query), query, SCENE_SECONDS)

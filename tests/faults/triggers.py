"""How a victim reaches each failpoint of the data plane: its role, and the action that triggers it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from tests.faults.history import Injected
from tests.faults.walk import BRIEF, CRON, FAIL, FLAKY, SHELF, SLOW, Trigger, Victim, Walk, fresh_key
from tests.support.waiting import CHANGE_SECONDS, SHORT_SECONDS, eventually


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One failpoint and how a victim gets there.

    Attributes:
        before: done once before the victim starts.
        also: armed besides, to hold the victim where it has to be.
        at_boot: reached while it starts.
        stops: reached while it ends.
        actions: those that make sense: no service is asked where `unavailable` is missing, and nothing is awaited in
            our own code where `hang` is.
    """

    role: str
    trigger: Trigger
    before: Callable[[Walk], Awaitable[None]] | None = None
    also: str = ""
    at_boot: bool = False
    stops: bool = False
    actions: tuple[str, ...] = ("kill9", "raise", "unavailable", "hang", "slow(0.3)")

    @property
    def survives_bugs(self) -> bool:
        """Whether the process goes on after a bug: a request is answered 500, and a loop starts again.

        A worker ends, so that its lease does.
        """
        return self.role == "api"

    @property
    def shares(self) -> bool:
        """Whether a victim that goes on can be brought to other points too."""
        return not (self.also or self.at_boot or self.stops)


LOOK_AGAIN = "UPDATE prune_slice SET look_at = now()"


async def nothing(_: Walk, __: Victim) -> None:
    """Trigger nothing: the victim reaches the failpoint on its own."""


async def post(walk: Walk, victim: Victim) -> None:
    """Post to the victim."""
    walk.ask(victim.address)


async def work(walk: Walk, _: Victim) -> None:
    """Enqueue work: the victim gets half of it."""
    for _number in range(4):
        walk.ask(walk.api.address)


async def fail(walk: Walk, _: Victim) -> None:
    """Enqueue a task that fails."""
    for type_ in (FLAKY, FAIL, FLAKY, FAIL):
        walk.ask(walk.api.address, type_)


async def replay(walk: Walk, victim: Victim) -> None:
    """Post to the healthy API, and then the same to the victim."""
    key = fresh_key()
    first = await walk.ask(walk.api.address, key=key)
    walk.ask(victim.address, key=key, op=first.payload["op"])


async def overflow(walk: Walk, victim: Victim) -> None:
    """Fill the shelf until the broker refuses."""
    for _ in range(4):
        walk.ask(victim.address, queue=SHELF)


async def later(walk: Walk, _: Victim) -> None:
    """Enqueue tasks that the relay has to publish."""
    for _number in range(3):
        walk.ask(walk.api.address, run_at=datetime.now(UTC) + timedelta(seconds=5))


async def one_failed(walk: Walk) -> None:
    """Make a failed task whose next attempt succeeds."""
    call = await walk.ask(walk.api.address, FLAKY, max_attempts=1)
    query = "SELECT status = 'FAILED' FROM tasks WHERE id = $1::uuid"
    await eventually(lambda: walk.sql.fetchval(query, call.task_id), f"task {call.task_id} has failed", SHORT_SECONDS)


async def forget_dead_letters(walk: Walk, _: Victim) -> None:
    """Forget that the broker confirmed dead letters, as a crash before the note does."""
    await walk.sql.execute(
        "UPDATE tasks SET dead_lettered_at = NULL, dead_letter_at = failed_at WHERE status = 'FAILED'"
    )


async def lose_the_shelf(walk: Walk, victim: Victim) -> None:
    """Delete a queue with a confirmed message in it, and have the victim find out."""
    await walk.ask(walk.api.address, queue=SHELF)
    now = time.time()
    await walk.sql.execute("UPDATE tasks SET needs_publish = false WHERE queue = $1 AND needs_publish", SHELF)
    await asyncio.to_thread(walk.drop, f"tasks.{SHELF}")
    walk.faults.append(Injected(at=now, until=now, name="broker-queue-deleted", target=SHELF))
    walk.ask(victim.address, queue=SHELF)


async def lose_a_worker(walk: Walk, _: Victim) -> None:
    """Lose a worker with a task, for the reaper."""
    await asyncio.to_thread(walk.empty, f"tasks.{SHELF}")
    await walk.lose_a_worker()


async def lose_a_crowd(walk: Walk, _: Victim) -> None:
    """Make suspects that any free worker may take."""
    await asyncio.to_thread(walk.empty, f"tasks.{SHELF}")
    await walk.lose_a_crowd()


async def fire(walk: Walk, _: Victim) -> None:
    """Make a cron entry due, at another minute each time."""
    minutes = int(time.monotonic() * 2.5) % 58 + 1
    statement = "UPDATE schedule SET next_fire_at = now() - make_interval(mins => $1) WHERE name = $2"
    await walk.sql.execute(statement, minutes, CRON)


async def have_something_to_prune(walk: Walk) -> None:
    """Make finished tasks whose retention is over."""
    calls = await asyncio.gather(*(walk.ask(walk.api.address, BRIEF) for _ in range(5)))
    ids = [call.task_id for call in calls]
    query = "SELECT count(*) = 0 FROM tasks WHERE id = ANY ($1::uuid[]) AND status <> 'SUCCEEDED'"
    await eventually(lambda: walk.sql.fetchval(query, ids), "the brief tasks have succeeded", CHANGE_SECONDS)
    await walk.sql.execute(LOOK_AGAIN)


async def brief(walk: Walk, _: Victim) -> None:
    """Keep tasks to prune coming: the healthy API prunes too, and each API looks once a minute."""
    walk.ask(walk.api.address, BRIEF)
    await walk.sql.execute(LOOK_AGAIN)


async def cancel(walk: Walk, victim: Victim) -> None:
    """Cancel a task of the shelf."""
    await asyncio.to_thread(walk.empty, f"tasks.{SHELF}")
    call = await walk.ask(walk.api.address, queue=SHELF)
    walk.meanwhile(walk.tell(victim.address, f"/tasks/{call.task_id}/cancel"))


async def redrive(walk: Walk, victim: Victim) -> None:
    """Redrive the failed tasks."""
    walk.meanwhile(walk.tell(victim.address, "/dlq/redrive", {"type": FLAKY}))


async def stop(walk: Walk, victim: Victim) -> None:
    """Tell the victim to end while it works."""
    walk.ask(walk.api.address, SLOW)
    victim.tell_to_end()


async def stop_between(walk: Walk, victim: Victim) -> None:
    """Tell the victim to end while it has claims whose handlers have not begun."""
    if victim.has_reached("claim.acked"):
        await stop(walk, victim)
    else:
        await work(walk, victim)


_NO_SERVICE: Final = ("kill9", "raise", "slow(0.3)")
POINTS: Final = {
    "enqueue.inserted": Point(role="api", trigger=post),
    "enqueue.published": Point(role="api", trigger=post),
    "enqueue.undone": Point(role="api", trigger=overflow),
    "enqueue.replayed": Point(role="api", trigger=replay),
    "confirm.noted": Point(role="api", trigger=post),
    "relay.picked": Point(role="api", trigger=later),
    "relay.published": Point(role="api", trigger=later),
    "relay.confirmed": Point(role="api", trigger=later),
    "relay.dead_letters_published": Point(role="api", trigger=forget_dead_letters, before=one_failed),
    "relay.lost_marked": Point(role="api", trigger=lose_the_shelf),
    "reap.written": Point(role="api", trigger=lose_a_worker),
    "reap.committed": Point(role="api", trigger=lose_a_worker),
    "scheduler.fired": Point(role="api", trigger=fire),
    "scheduler.committed": Point(role="api", trigger=fire),
    "prune.committed": Point(role="api", trigger=brief, before=have_something_to_prune, at_boot=True),
    "cancel.committed": Point(role="api", trigger=cancel),
    "redrive.committed": Point(role="api", trigger=redrive, before=one_failed),
    "redrive.dropped": Point(role="api", trigger=redrive, before=one_failed),
    "claim.taken": Point(role="worker", trigger=work),
    "claim.committed": Point(role="worker", trigger=work),
    "claim.acked": Point(role="worker", trigger=work, actions=(*_NO_SERVICE, "hang")),
    "claim.released": Point(role="worker", trigger=stop_between, also="claim.acked=slow(3)@1", stops=True),
    "alone.next": Point(role="worker", trigger=lose_a_crowd),
    "alone.committed": Point(role="worker", trigger=lose_a_crowd),
    "run.started": Point(role="worker", trigger=work, actions=_NO_SERVICE),
    "run.ended": Point(role="worker", trigger=work, actions=_NO_SERVICE),
    "finish.decided": Point(role="worker", trigger=work, actions=_NO_SERVICE),
    "finish.committed": Point(role="worker", trigger=work),
    "retry.published": Point(role="worker", trigger=fail),
    "dead_letter.published": Point(role="worker", trigger=fail),
    "lease.registered": Point(role="worker", trigger=nothing, at_boot=True),
    "lease.renewed": Point(role="worker", trigger=nothing),
    "drain.started": Point(role="worker", trigger=stop, stops=True, actions=(*_NO_SERVICE, "hang")),
    "drain.ended": Point(role="worker", trigger=stop, stops=True, actions=(*_NO_SERVICE, "hang")),
}
"""Every failpoint of the data plane."""
GROUPS: Final = {
    "enqueue": ("enqueue.inserted", "enqueue.published", "enqueue.undone", "enqueue.replayed", "confirm.noted"),
    "relay": (
        "relay.picked", "relay.published", "relay.confirmed", "relay.dead_letters_published", "relay.lost_marked",
    ),
    "upkeep": ("reap.written", "reap.committed", "scheduler.fired", "scheduler.committed", "prune.committed"),
    "person": ("cancel.committed", "redrive.committed", "redrive.dropped"),
    "claim": ("claim.taken", "claim.committed", "claim.acked", "claim.released"),
    "alone": ("alone.next", "alone.committed"),
    "run": (
        "run.started", "run.ended", "finish.decided", "finish.committed", "retry.published", "dead_letter.published",
    ),
    "life": ("lease.registered", "lease.renewed", "drain.started", "drain.ended"),
}  # fmt: skip
"""Points that are walked one after the other on one stage, and judged together."""

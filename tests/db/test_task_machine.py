"""The life of many tasks at once, in any order of events: a model in Python against the real functions.

The broker is a list of messages that may be doubled, late or lost. Time is moved by moving what was stored.
"""

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dtq.domain.backoff import Backoff
from dtq.domain.decisions import Attempt, decide
from dtq.domain.states import TERMINAL, Outcome, TaskStatus
from dtq_db import maintenance
from dtq_db.attempts import Completion
from dtq_db.connections import DedicatedConnection, connect
from dtq_db.maintenance import OrphanedTask
from tests.db.world import TYPE, World

WORKERS: Final = 3
EXAMPLES: Final = 100
STEPS: Final = 40
BACKOFF: Final = Backoff(delays_seconds=(5.0, 30.0))
RUNS: Final = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
T = TypeVar("T")
which = st.integers(0, 1_000)


@dataclass
class Model:
    """What the test knows of one task."""

    key: str | None
    status: TaskStatus = TaskStatus.ENQUEUED
    attempts: int = 0
    max_attempts: int = 3
    budget: int = 3
    worker: UUID | None = None
    cancelling: bool = False
    successes: int = 0
    suspect: bool = False
    alone: bool = False
    crashes: int = 0
    starts: list[tuple[UUID, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """A handler that a worker believes to be running."""

    worker: UUID
    id: UUID
    attempt: int


class Life(RuleBasedStateMachine):
    """Rules are what clients, workers, brokers and people do; invariants hold after each of them."""

    world: ClassVar[World]
    dedicated: ClassVar[DedicatedConnection]
    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.tasks: dict[UUID, Model] = {}
        self.broker: list[UUID] = []
        self.published: dict[UUID, Any] = {}
        self.workers: list[UUID] = []
        self.runs: list[Run] = []
        self.paused = False
        self.keys = 0
        self.lost: set[UUID] = set()
        self.lost_unconfirmed: set[UUID] = set()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def pick(self, number: int) -> UUID:
        return list(self.tasks)[number % len(self.tasks)]

    # What happens outside of the rules.

    @initialize()
    def begin(self) -> None:
        sql = self.world.sql
        self.do(sql.execute("TRUNCATE tasks, task_events, workers; UPDATE queue_set SET paused = false"))
        self.workers = [self.do(self.world.worker()) for _ in range(WORKERS)]

    def row(self, id_: UUID) -> Any:
        return self.do(self.world.row(id_))

    def publish(self, id_: UUID) -> None:
        self.broker.append(id_)
        self.published[id_] = self.do(self.world.version(id_))
        self.lost_unconfirmed.discard(id_)

    # Clients.

    @rule(keyed=st.booleans(), later=st.booleans(), budget=st.integers(1, 3))
    def enqueue(self, *, keyed: bool, later: bool, budget: int) -> None:
        self.keys += 1
        key = f"key-{self.keys}" if keyed else None
        run_at = self.do(self.world.sql.fetchval("SELECT now() + interval '1 hour'")) if later else None
        id_ = self.do(self.world.one(keys=[key], max_attempts=budget, run_at=run_at, grace_seconds=5))
        self.tasks[id_] = Model(key=key, max_attempts=budget, budget=budget)
        if not later:
            self.publish(id_)

    @precondition(lambda self: any(task.key for task in self.tasks.values()))
    @rule(number=which)
    def enqueue_again_with_the_same_key(self, number: int) -> None:
        keyed = [id_ for id_, task in self.tasks.items() if task.key]
        id_ = keyed[number % len(keyed)]
        key = self.tasks[id_].key
        assert key is not None
        assert self.do(self.world.enqueue(keys=[key])) == []
        (hit,) = self.do(self.world.replay(key))
        assert (hit["id"], hit["same"]) == (id_, True)
        (conflict,) = self.do(self.world.replay(key, '{"other": 1}'))
        assert (conflict["id"], conflict["same"]) == (id_, False)

    @precondition(lambda self: self.tasks)
    @rule(number=which)
    def undo(self, number: int) -> None:
        id_ = self.pick(number)
        task = self.tasks[id_]
        replayed = self.row(id_)["replays"] > 0
        gone = self.do(self.world.undo(id_))
        unharmed = task.status is TaskStatus.ENQUEUED and task.attempts == 0 and not replayed
        assert gone == ({id_} if unharmed else set())
        if gone:
            # Its messages may still come: they find nothing.
            del self.tasks[id_]

    @precondition(lambda self: self.tasks)
    @rule(number=which)
    def cancel(self, number: int) -> None:
        id_ = self.pick(number)
        task = self.tasks[id_]
        answer = self.do(self.world.cancel(id_))
        if task.status is TaskStatus.ENQUEUED:
            task.status = TaskStatus.CANCELLED
            task.suspect = False
        elif task.status is TaskStatus.RUNNING:
            task.cancelling = True
        assert answer is not None
        assert answer[0] == task.status

    @precondition(lambda self: self.tasks)
    @rule(number=which)
    def redrive(self, number: int) -> None:
        id_ = self.pick(number)
        task = self.tasks[id_]
        redriven = self.do(self.world.redrive(id_))
        assert redriven == ({id_} if task.status is TaskStatus.FAILED else set())
        if redriven:
            task.status = TaskStatus.ENQUEUED
            task.max_attempts = task.attempts + task.budget
            task.crashes = 0

    @rule()
    def pause_or_resume(self) -> None:
        self.paused = not self.paused
        self.do(self.world.sql.execute("UPDATE queue_set SET paused = $1", self.paused))

    # The broker.

    @precondition(lambda self: self.published)
    @rule(number=which)
    def confirm_arrives_however_late(self, number: int) -> None:
        id_ = list(self.published)[number % len(self.published)]
        self.do(self.world.confirm({id_: self.published.pop(id_)}))
        if id_ in self.lost_unconfirmed:
            self.lost_unconfirmed.discard(id_)
            self.lost.add(id_)

    @precondition(lambda self: self.broker)
    @rule(number=which)
    def a_message_is_doubled(self, number: int) -> None:
        self.broker.append(self.broker[number % len(self.broker)])

    @rule()
    def the_broker_loses_everything(self) -> None:
        self.lost |= set(self.broker)
        self.lost_unconfirmed |= set(self.published)
        self.broker.clear()

    @rule()
    def the_watch_finds_what_the_broker_lost(self) -> None:
        self.do(self.world.lost(-1e6))
        self.lost.clear()

    @rule()
    def time_passes(self) -> None:
        self.do(
            self.world.sql.execute(
                "UPDATE tasks SET run_at = least(run_at, now()), publish_at = least(publish_at, now())"
                " WHERE status = 'ENQUEUED'"
            )
        )

    @rule()
    def relay(self) -> None:
        due = self.do(self.world.relay())
        assert not (self.paused and due)
        for id_ in due:
            self.publish(id_)

    # Workers.

    @precondition(lambda self: self.broker)
    @rule(number=which, who=st.integers(0, WORKERS - 1), served=st.booleans() | st.just(value=True))
    def a_message_is_delivered(self, number: int, who: int, *, served: bool) -> None:
        id_ = self.broker.pop(number % len(self.broker))
        worker = self.workers[who]
        task = self.tasks.get(id_)
        early = task is not None and self.do(
            self.world.sql.fetchval("SELECT run_at > now() + interval '1 second' FROM tasks WHERE id = $1", id_)
        )
        won = self.do(self.world.claim(worker, id_, types=[TYPE] if served else ["other.v1"]))
        may = task is not None and task.status is TaskStatus.ENQUEUED and served and not early and not self.paused
        assert set(won) == ({id_} if may else set())
        if task is not None and may:
            task.attempts += 1
            assert won[id_] == task.attempts
            task.status, task.worker = TaskStatus.RUNNING, worker
            task.starts.append((worker, task.attempts))
            self.runs.append(Run(worker=worker, id=id_, attempt=task.attempts))

    @precondition(lambda self: self.runs)
    @rule(number=which, outcome=st.sampled_from(Outcome), chance=st.floats(0, 1))
    def a_handler_ends(self, number: int, outcome: Outcome, chance: float) -> None:
        run = self.runs.pop(number % len(self.runs))
        task = self.tasks[run.id]
        ended = Attempt(outcome=outcome, attempt=run.attempt, max_attempts=task.max_attempts, error="boom")
        decision = decide(ended, BACKOFF, chance)
        written = self.do(
            self.world.finish(Completion(worker_id=run.worker, id=run.id, attempt=run.attempt, decision=decision))
        )
        holds = task.status is TaskStatus.RUNNING and (task.worker, task.attempts) == (run.worker, run.attempt)
        assert set(written) == ({run.id} if holds else set())
        if not holds:
            return
        expected = decision.status
        if expected is TaskStatus.ENQUEUED and task.cancelling:
            expected = TaskStatus.CANCELLED
        assert written[run.id] == expected
        if expected is TaskStatus.ENQUEUED and decision.drained:
            task.max_attempts = max(task.max_attempts, task.attempts + 1)
        if expected is TaskStatus.ENQUEUED and decision.snoozed:
            task.max_attempts += 1
        task.successes += expected is TaskStatus.SUCCEEDED
        task.status, task.cancelling = expected, False
        task.suspect = task.suspect and expected is TaskStatus.ENQUEUED and decision.drained
        if decision.suspected and expected is TaskStatus.ENQUEUED:
            task.suspect = True
            task.max_attempts += 1
        task.crashes += decision.crashed
        task.alone = False

    @precondition(lambda self: self.runs)
    @rule(number=which)
    def a_claim_is_released_unused(self, number: int) -> None:
        run = self.runs.pop(number % len(self.runs))
        task = self.tasks[run.id]
        released = self.do(self.world.release(run.worker, run.id))
        holds = task.status is TaskStatus.RUNNING and task.worker == run.worker and task.attempts == run.attempt
        assert released == ({run.id} if holds else set())
        if holds:
            task.alone = False
        if holds and task.cancelling:
            task.status = TaskStatus.CANCELLED
            task.cancelling = task.suspect = False
        elif holds:
            task.attempts -= 1
            task.starts.pop()
            task.status = TaskStatus.ENQUEUED

    @precondition(lambda self: self.runs)
    @rule(number=which)
    def a_suspect_starts_alone(self, number: int) -> None:
        run = self.runs[number % len(self.runs)]
        task = self.tasks[run.id]
        holds = task.status is TaskStatus.RUNNING and (task.worker, task.attempts) == (run.worker, run.attempt)
        started = self.do(self.world.run_alone(run.worker, run.id, run.attempt))
        assert started == (holds and task.suspect and run.worker in self.workers)
        task.alone = task.alone or started

    @rule(who=st.integers(0, WORKERS - 1))
    def a_worker_is_lost_and_another_boots(self, who: int) -> None:
        lost, self.workers[who] = self.workers[who], self.do(self.world.worker())
        self.do(self.world.expire(lost))
        assert self.do(self.world.renew(lost)) == (False, [])
        # Its handlers may go on for a while: their ends come as stale finishes.

    @rule()
    def reap(self) -> None:
        while self.do(maintenance.reap(self.dedicated, self._lost))[1]:
            pass

    def _lost(self, held: OrphanedTask) -> Completion:
        task = self.tasks[held.id]
        assert (task.status, task.attempts, task.worker) == (TaskStatus.RUNNING, held.ended.attempt, held.worker_id)
        assert held.ended.alone == task.alone
        assert (held.ended.suspected_seconds is not None) == task.suspect
        decision = decide(held.ended, BACKOFF, 0.5)
        assert decision.crashed == task.alone, "only a task that ran alone is charged"
        again = decision.status is TaskStatus.ENQUEUED
        task.status = TaskStatus.CANCELLED if again and task.cancelling else decision.status
        task.cancelling = False
        task.crashes += decision.crashed
        task.suspect = task.status is TaskStatus.ENQUEUED
        task.alone = False
        task.max_attempts += decision.suspected and task.suspect
        return Completion(worker_id=held.worker_id, id=held.id, attempt=held.ended.attempt, decision=decision)

    @rule(who=st.integers(0, WORKERS - 1))
    def a_renewal_says_what_to_cancel(self, who: int) -> None:
        worker = self.workers[who]
        renewed, ids = self.do(self.world.renew(worker))
        assert renewed
        assert set(ids) == {id_ for id_, task in self.tasks.items() if task.cancelling and task.worker == worker}

    # What must hold after each of them.

    @invariant()
    def rows_are_what_the_model_says(self) -> None:
        rows = self.do(self.world.sql.fetch("SELECT * FROM tasks"))
        assert {row["id"] for row in rows} == set(self.tasks)
        for row in rows:
            task = self.tasks[row["id"]]
            assert (row["status"], row["attempts"], row["max_attempts"]) == (
                task.status,
                task.attempts,
                task.max_attempts,
            )
            assert row["max_attempts"] - (row["uncounted_attempts"] or 0) == task.budget
            assert (row["suspected_at"] is not None, row["alone_at"] is not None) == (task.suspect, task.alone)
            assert row["crashes"] == task.crashes
            assert (row["cancel_requested_at"] is not None and row["status"] == "RUNNING") == task.cancelling

    @invariant()
    def nothing_is_stranded(self) -> None:
        """A task that is not over has a message, an outbox row or a worker that a reaper will look at."""
        rows = self.do(
            self.world.sql.fetch(
                "SELECT t.id, t.status, t.needs_publish, w.id IS NOT NULL AND w.reaped_at IS NULL AS watched"
                " FROM tasks t LEFT JOIN workers w ON w.id = t.worker_id"
            )
        )
        for row in rows:
            if row["status"] == TaskStatus.RUNNING:
                assert row["watched"], "a running task that no reaper will find"
            elif row["status"] == TaskStatus.ENQUEUED:
                known = row["id"] in self.broker or row["id"] in self.lost
                assert row["needs_publish"] or known, "a waiting task without message and outbox"

    @invariant()
    def the_history_tells_the_same_story(self) -> None:
        rows = self.do(self.world.sql.fetch("SELECT * FROM task_events ORDER BY id"))
        stories: dict[UUID, list[Any]] = {id_: [] for id_ in self.tasks}
        for row in rows:
            stories[row["task_id"]].append(row)
        for id_, story in stories.items():
            task = self.tasks[id_]
            events = [row["event"] for row in story]
            assert events[0] == "ENQUEUED"
            counts = Counter(events)
            assert counts["SUCCEEDED"] == task.successes <= 1
            starts: list[tuple[UUID, int]] = []
            for row in story:
                if row["event"] == "RUNNING":
                    starts.append((row["worker_id"], row["attempt"]))
                elif row["event"] == "RELEASED":
                    starts.pop()
            assert starts == task.starts
            assert [number for _, number in starts] == list(range(1, len(starts) + 1))
            over = [at for at, event in enumerate(events) if event in TERMINAL - {TaskStatus.FAILED}]
            assert over in ([], [len(events) - 1])

    def teardown(self) -> None:
        """After the faults every task that is not over runs to its end: nothing was lost."""
        if not self.workers:
            return
        if self.paused:
            self.pause_or_resume()
        for who in range(WORKERS):
            self.a_worker_is_lost_and_another_boots(who)
        self.reap()
        self.the_broker_loses_everything()
        self.the_watch_finds_what_the_broker_lost()
        self.time_passes()
        self.relay()
        while self.broker:
            self.a_message_is_delivered(0, 0, served=True)
        runs, self.runs = self.runs, []
        for run in runs:
            self.runs = [run]
            self.a_handler_ends(0, Outcome.SUCCEEDED, 0.0)
        assert {task.status for task in self.tasks.values()} <= TERMINAL


@pytest.fixture
def life(dsn: str) -> Iterator[type[Life]]:
    """The machine, on a connection and a loop of its own."""
    loop = asyncio.new_event_loop()
    Life.loop = loop
    Life.world = World(loop.run_until_complete(connect(dsn, name="machine")))
    Life.dedicated = DedicatedConnection(dsn, name="machine/reaper")
    loop.run_until_complete(Life.world.declare())
    yield Life
    loop.run_until_complete(Life.dedicated.close())
    loop.run_until_complete(Life.world.sql.close())
    loop.close()


@pytest.mark.timeout(600)  # what fails is shrunk, which takes longer than the whole test
def test_no_order_of_events_loses_doubles_or_strands_a_task(life: type[Life]) -> None:
    run_state_machine_as_test(life, settings=RUNS)

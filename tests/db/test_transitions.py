"""Each transition: what it moves, what it leaves alone, and what the history says of it."""

from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from dtq.domain.limits import SNOOZE_SECONDS_MAX, SNOOZES_MAX
from dtq.domain.states import TERMINAL, TRANSITIONS, TaskStatus
from dtq_db.attempts import LEASE_GONE, finish_columns
from dtq_db.queries import query
from tests.db.world import QUEUE, TYPE, World, ending, in_seconds

ENQUEUED, RUNNING = TaskStatus.ENQUEUED, TaskStatus.RUNNING
SUCCEEDED, FAILED, CANCELLED = TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED


async def test_the_whole_life_of_a_task_is_in_its_history(world: World) -> None:
    worker, id_ = await world.running(max_attempts=2)
    await world.finish(ending(worker, id_, 1, ENQUEUED, error="first"))
    await world.claim(worker, id_)
    await world.release(worker, id_)
    await world.claim(worker, id_)
    await world.finish(ending(worker, id_, 2, FAILED, error="second"))
    await world.dead_letter({id_: await world.version(id_)})
    await world.redrive(id_)
    await world.claim(worker, id_)
    await world.finish(ending(worker, id_, 3, SUCCEEDED, result='{"ok": true}'))
    rows = await world.sql.fetch(
        "SELECT event, note, attempt, worker_id FROM task_events WHERE task_id = $1 ORDER BY at, id", id_
    )
    assert [tuple(row) for row in rows] == [
        ("ENQUEUED", None, 0, None),
        ("RUNNING", None, 1, worker),
        ("RETRY", "first", 1, worker),
        ("RUNNING", None, 2, worker),
        ("RELEASED", None, 1, worker),
        ("RUNNING", None, 2, worker),
        ("FAILED", "second", 2, worker),
        ("DLQ", "second", 2, worker),
        ("REDRIVE", "second", 2, worker),
        ("RUNNING", None, 3, worker),
        ("SUCCEEDED", None, 3, worker),
    ]


async def test_a_statement_records_one_event_for_each_row_that_it_moved(world: World) -> None:
    ids = await world.enqueue(7)
    worker = await world.worker()
    await world.claim(worker, *ids)
    await world.finish(*(ending(worker, id_, 1, SUCCEEDED) for id_ in ids))
    counts = await world.sql.fetch("SELECT event, count(*) FROM task_events GROUP BY event ORDER BY event")
    assert [tuple(row) for row in counts] == [("ENQUEUED", 7), ("RUNNING", 7), ("SUCCEEDED", 7)]


async def test_an_update_that_changes_no_status_records_nothing(world: World) -> None:
    id_ = await world.one(keys=["k"])
    await world.relay()
    await world.confirm({id_: await world.version(id_)})
    await world.lost()
    await world.replay("k")
    worker = await world.worker()
    await world.claim(worker, id_, types=["other.v1"])
    await world.claim(worker, id_)
    await world.cancel(id_)
    assert await world.events(id_) == ["ENQUEUED", "RUNNING"]


async def test_an_inactive_or_unknown_type_stores_nothing(world: World) -> None:
    await world.declare("old.v1", active=False)
    assert await world.enqueue(type_="old.v1") == []
    assert await world.enqueue(type_="never.v1") == []
    assert await world.sql.fetchval("SELECT count(*) FROM task_events") == 0


async def test_of_one_batch_only_the_first_of_a_key_is_stored(world: World) -> None:
    assert len(await world.enqueue(3, keys=["k", "k", None])) == 2
    assert await world.sql.fetchval("SELECT count(*) FROM tasks WHERE idempotency_key = 'k'") == 1


async def test_a_replay_says_whether_the_payload_is_the_same_and_knows_its_type_alone(world: World) -> None:
    id_ = await world.one(keys=["k"], payload='{"b": 1, "a": [2]}')
    assert [tuple(row) for row in await world.replay("k", '{"a":[2],"b":1}')] == [(id_, "ENQUEUED", QUEUE, True)]
    assert [tuple(row) for row in await world.replay("k", "{}")] == [(id_, "ENQUEUED", QUEUE, False)]
    assert await world.replay("k", '{"a":[2],"b":1}', "other.v1") == []
    assert await world.replay("unknown") == []
    assert (await world.row(id_))["replays"] == 1


async def test_an_undo_takes_back_the_row_and_its_history(world: World) -> None:
    id_ = await world.one(keys=["k"])
    assert await world.undo(id_, uuid4()) == {id_}
    assert await world.events(id_) == []
    assert len(await world.enqueue(keys=["k"])) == 1


async def test_an_undo_leaves_what_was_replayed_claimed_or_cancelled(world: World) -> None:
    replayed = await world.one(keys=["k"])
    await world.replay("k")
    _, claimed = await world.running()
    cancelled = await world.one()
    await world.cancel(cancelled)
    assert await world.undo(replayed, claimed, cancelled) == set()


async def test_a_payload_that_postgres_cannot_hold_is_a_data_error(world: World) -> None:
    for payload in ('{"a": "\\u0000"}', "{", "NaN", ""):
        with pytest.raises(asyncpg.DataError):
            await world.enqueue(payload=payload)


async def test_a_claim_counts_the_attempt_and_clears_the_outbox(world: World) -> None:
    worker, id_ = await world.running(payload='{"to": "a@b"}')
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["worker_id"]) == (RUNNING, 1, worker)
    assert (row["needs_publish"], row["publish_at"]) == (None, None)


async def test_a_delivery_that_comes_again_claims_nothing(world: World) -> None:
    worker, id_ = await world.running()
    other = await world.worker()
    assert await world.claim(worker, id_) == {}
    assert await world.claim(other, id_, uuid4()) == {}
    assert (await world.row(id_))["attempts"] == 1


async def test_a_delivery_of_a_terminal_task_claims_nothing(world: World) -> None:
    worker, done = await world.running()
    await world.finish(ending(worker, done, 1, SUCCEEDED))
    cancelled, failed = await world.one(), await world.failed()
    await world.cancel(cancelled)
    assert await world.claim(worker, done, cancelled, failed) == {}


async def test_what_a_worker_may_not_run_now_goes_back_to_the_relay(world: World) -> None:
    now = await world.now()
    worker = await world.worker()
    early = await world.one(run_at=in_seconds(now, 600))
    unserved = await world.one()
    for id_ in (early, unserved):
        await world.confirm({id_: await world.version(id_)})
    assert await world.claim(worker, early) == {}
    assert await world.claim(worker, unserved, types=["other.v1"]) == {}
    row = await world.row(early)
    assert (row["needs_publish"], row["publish_at"], row["attempts"]) == (True, in_seconds(now, 600), 0)
    row = await world.row(unserved)
    assert row["needs_publish"]
    assert 4 < (row["publish_at"] - now).total_seconds() < 10


async def test_a_paused_set_hands_out_nothing_and_loses_nothing(world: World) -> None:
    id_, worker = await world.one(), await world.worker()
    await world.confirm({id_: await world.version(id_)})
    await world.sql.execute("UPDATE queue_set SET paused = true")
    assert await world.claim(worker, id_) == {}
    assert await world.relay() == []
    await world.sql.execute("UPDATE queue_set SET paused = false")
    assert await world.relay() == [id_]
    assert await world.claim(worker, id_) == {id_: 1}


async def test_a_message_that_is_a_little_early_is_claimed(world: World) -> None:
    worker = await world.worker()
    id_ = await world.one(run_at=in_seconds(await world.now(), 0.9))
    assert await world.claim(worker, id_) == {id_: 1}


async def test_tasks_of_a_set_that_is_gone_still_run(world: World) -> None:
    id_, worker = await world.one(), await world.worker()
    await world.sql.execute("DELETE FROM queue_set")
    assert await world.claim(worker, id_) == {id_: 1}


async def test_a_worker_without_a_lease_claims_nothing(world: World) -> None:
    id_, worker = await world.one(), await world.worker()
    await world.expire(worker)
    for who in (worker, uuid4()):
        with pytest.raises(asyncpg.PostgresError) as caught:
            await world.claim(who, id_)
        assert caught.value.sqlstate == LEASE_GONE
    assert (await world.row(id_))["status"] == ENQUEUED


async def test_only_the_holder_of_worker_and_attempt_may_finish(world: World) -> None:
    worker, id_ = await world.running()
    stranger = await world.worker()
    for stale in (ending(stranger, id_, 1, SUCCEEDED), ending(worker, id_, 2, FAILED), ending(worker, id_, 0, FAILED)):
        assert await world.finish(stale) == {}
    assert await world.finish(ending(worker, id_, 1, SUCCEEDED)) == {id_: "SUCCEEDED"}
    assert await world.finish(ending(worker, id_, 1, FAILED)) == {}
    assert await world.events(id_) == ["ENQUEUED", "RUNNING", "SUCCEEDED"]


async def test_a_stale_finish_does_not_hold_up_its_batch(world: World) -> None:
    worker, id_ = await world.running()
    _, foreign = await world.running()
    written = await world.finish(ending(worker, foreign, 1, SUCCEEDED), ending(worker, id_, 1, SUCCEEDED))
    assert written == {id_: "SUCCEEDED"}


async def test_a_result_is_stored_and_an_old_error_cleared(world: World) -> None:
    worker, id_ = await world.running()
    await world.finish(ending(worker, id_, 1, ENQUEUED, error="first"))
    assert (await world.row(id_))["last_error"] == "first"
    await world.claim(worker, id_)
    await world.finish(ending(worker, id_, 2, SUCCEEDED, result="[1]"))
    row = await world.row(id_)
    assert (row["result"], row["last_error"], row["failed_at"]) == ("[1]", None, None)


async def test_a_retry_waits_for_its_delay_and_the_relay_for_the_grace(world: World) -> None:
    worker, id_ = await world.running()
    now = await world.now()
    await world.finish(ending(worker, id_, 1, ENQUEUED, delay_seconds=60, grace_seconds=5))
    row = await world.row(id_)
    assert abs((row["run_at"] - in_seconds(now, 60)).total_seconds()) < 5
    assert (row["publish_at"] - row["run_at"]).total_seconds() == 5
    assert row["needs_publish"]


async def test_a_retry_beyond_the_budget_fails_whatever_was_asked(world: World) -> None:
    worker, id_ = await world.running(max_attempts=1)
    assert await world.finish(ending(worker, id_, 1, ENQUEUED, error="again")) == {id_: "FAILED"}
    row = await world.row(id_)
    assert row["failed_at"] is not None
    assert row["needs_publish"] is None


async def test_a_drained_last_attempt_gives_the_task_one_more(world: World) -> None:
    worker, id_ = await world.running(max_attempts=1)
    assert await world.finish(ending(worker, id_, 1, ENQUEUED, drained=True)) == {id_: "ENQUEUED"}
    assert await world.claim(worker, id_) == {id_: 2}
    assert (await world.row(id_))["max_attempts"] == 2


async def test_a_retry_of_a_task_that_is_to_be_cancelled_cancels_it(world: World) -> None:
    worker, id_ = await world.running()
    assert await world.cancel(id_) == ("RUNNING", True)
    assert await world.renew(worker) == (True, [id_])
    assert await world.finish(ending(worker, id_, 1, ENQUEUED, error="stopped")) == {id_: "CANCELLED"}
    assert await world.renew(worker) == (True, [])


async def test_a_success_beats_a_cancellation(world: World) -> None:
    worker, id_ = await world.running()
    await world.cancel(id_)
    assert await world.finish(ending(worker, id_, 1, SUCCEEDED)) == {id_: "SUCCEEDED"}


async def test_a_release_gives_the_attempt_back_and_publishes_at_once(world: World) -> None:
    worker, id_ = await world.running()
    other = await world.worker()
    assert await world.release(other, id_) == set()
    assert await world.release(worker, id_) == {id_}
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["needs_publish"]) == (ENQUEUED, 0, True)
    assert await world.release(worker, id_) == set()
    assert await world.relay() == [id_]


async def test_a_release_of_a_task_that_is_to_be_cancelled_cancels_it(world: World) -> None:
    worker, id_ = await world.running()
    await world.cancel(id_)
    assert await world.release(worker, id_) == {id_}
    assert (await world.row(id_))["status"] == CANCELLED


async def test_a_cancellation_stops_what_waits_and_leaves_what_is_over(world: World) -> None:
    id_ = await world.one()
    assert await world.cancel(id_) == ("CANCELLED", True)
    assert await world.cancel(id_) == ("CANCELLED", False)
    assert await world.cancel(uuid4()) is None
    assert await world.cancel(await world.failed()) == ("FAILED", False)


async def test_a_confirm_is_fenced_by_the_version_that_was_published(world: World) -> None:
    id_ = await world.one()
    version = await world.version(id_)
    assert await world.confirm({id_: in_seconds(version, 1), uuid4(): version}) == 0
    assert await world.confirm({id_: version}) == 1
    assert (await world.row(id_))["needs_publish"] is False
    assert await world.confirm({id_: version}) == 0


async def test_a_confirm_of_an_attempt_that_came_back_meanwhile_does_nothing(world: World) -> None:
    id_, worker = await world.one(), await world.worker()
    version = await world.version(id_)
    await world.claim(worker, id_)
    await world.release(worker, id_)
    assert await world.confirm({id_: version}) == 0
    assert await world.relay() == [id_]


async def test_a_relay_holds_what_it_picked(world: World) -> None:
    ids = await world.enqueue(3)
    assert set(await world.relay(hold_seconds=30)) == set(ids)
    assert await world.relay() == []


async def test_a_relay_leaves_what_is_not_due_or_still_the_publishers(world: World) -> None:
    await world.one(run_at=in_seconds(await world.now(), 60))
    await world.one(grace_seconds=5)
    assert await world.relay() == []


async def test_tasks_that_the_broker_lost_are_published_again(world: World) -> None:
    id_ = await world.one()
    await world.confirm({id_: await world.version(id_)})
    assert await world.lost(30) == 0
    assert await world.lost(0, queue="other") == 0
    assert await world.relay() == []
    assert await world.lost(0) == 1
    assert await world.lost(0) == 0
    assert await world.relay() == [id_]


async def test_a_lost_retry_keeps_its_due_time(world: World) -> None:
    worker, id_ = await world.running()
    await world.finish(ending(worker, id_, 1, ENQUEUED, delay_seconds=3600))
    await world.confirm({id_: await world.version(id_)})
    assert await world.lost(0) == 0
    assert await world.lost(-7200) == 1
    row = await world.row(id_)
    assert row["publish_at"] == row["run_at"]


async def test_a_redrive_grants_the_tasks_own_budget_afresh_and_goes_on_counting(world: World) -> None:
    id_ = await world.failed(max_attempts=1)
    waiting = await world.one()
    assert await world.redrive(id_, waiting, uuid4()) == {id_}
    row = await world.row(id_)
    assert (row["status"], row["attempts"], row["max_attempts"], row["redrives"]) == (ENQUEUED, 1, 2, 1)
    assert (row["failed_at"], row["dead_lettered_at"]) == (None, None)
    assert await world.redrive(id_) == set()
    assert await world.claim(await world.worker(), id_) == {id_: 2}


async def test_a_budget_outlives_every_redrive_drain_and_snooze(world: World) -> None:
    id_, worker = await world.one(max_attempts=2), await world.worker()
    attempt = 0

    async def ends(status: TaskStatus, **how: Any) -> tuple[int, int]:
        nonlocal attempt
        attempt += 1
        assert await world.claim(worker, id_) == {id_: attempt}
        await world.finish(ending(worker, id_, attempt, status, error="boom", **how))
        row = await world.row(id_)
        return row["max_attempts"] - row["attempts"], row["uncounted_attempts"] or 0

    for redrives in range(3):
        before = attempt
        assert await ends(ENQUEUED, snoozed=True) == (2, before + 1)
        assert await ends(ENQUEUED) == (1, before + 1)
        assert await ends(ENQUEUED, snoozed=True) == (1, before + 2)
        assert await ends(ENQUEUED, drained=True) == (1, before + 3)
        assert await ends(ENQUEUED) == (0, before + 3)
        row = await world.row(id_)
        assert (row["status"], row["redrives"], row["snoozes"]) == (FAILED, redrives, 2)
        assert await world.redrive(id_) == {id_}
        row = await world.row(id_)
        assert (row["max_attempts"] - row["attempts"], row["uncounted_attempts"]) == (2, attempt)
        assert (row["snoozes"], row["snoozed_since"]) == (None, None)


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("snoozes", str(SNOOZES_MAX), f"snoozed {SNOOZES_MAX} times"),
        ("snoozed_since", f"now() - interval '{SNOOZE_SECONDS_MAX + 1} seconds'", "snoozed for 30 days"),
    ],
)
async def test_a_task_that_is_snoozed_too_often_or_too_long_fails(
    world: World, column: str, value: str, told: str
) -> None:
    worker, id_ = await world.running()
    await world.finish(ending(worker, id_, 1, ENQUEUED, error="not yet", delay_seconds=0.1, snoozed=True))
    row = await world.row(id_)
    assert (row["status"], row["snoozes"], row["max_attempts"]) == (ENQUEUED, 1, 6)
    await world.sql.execute(f"UPDATE tasks SET {column} = {value}, run_at = now()")
    await world.claim(worker, id_)
    await world.finish(ending(worker, id_, 2, ENQUEUED, error="not yet", snoozed=True))
    row = await world.row(id_)
    assert row["status"] == FAILED
    assert row["last_error"].startswith(told)
    assert row["last_error"].endswith(": not yet")


async def test_one_short_of_the_bounds_a_task_may_be_snoozed(world: World) -> None:
    worker, id_ = await world.running()
    await world.sql.execute(
        "UPDATE tasks SET snoozes = $1, snoozed_since = now() - make_interval(secs => $2)",
        SNOOZES_MAX - 1,
        float(SNOOZE_SECONDS_MAX - 3600),
    )
    assert await world.finish(ending(worker, id_, 1, ENQUEUED, snoozed=True)) == {id_: ENQUEUED}


async def test_a_cancel_that_was_asked_for_wins_over_a_snooze(world: World) -> None:
    worker, id_ = await world.running()
    await world.cancel(id_)
    assert await world.finish(ending(worker, id_, 1, ENQUEUED, snoozed=True)) == {id_: CANCELLED}


async def test_a_worker_that_knows_neither_snoozes_nor_tracebacks_finishes_as_before(world: World) -> None:
    worker, id_ = await world.running()
    columns = finish_columns([ending(worker, id_, 1, ENQUEUED, error="boom")])[:10]
    rows = await world.sql.fetch("SELECT status FROM dtq_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)", *columns)
    assert [row["status"] for row in rows] == [ENQUEUED]
    row = await world.row(id_)
    assert (row["attempts"], row["max_attempts"], row["uncounted_attempts"]) == (1, 5, None)


async def test_a_traceback_belongs_to_the_last_error_and_goes_with_it(world: World) -> None:
    worker, id_ = await world.running()

    async def ends(attempt: int, status: TaskStatus, **how: Any) -> str | None:
        await world.claim(worker, id_)
        await world.finish(ending(worker, id_, attempt, status, **how))
        found: str | None = (await world.row(id_))["last_traceback"]
        return found

    assert await ends(1, ENQUEUED, error="boom", traceback="at line 1") == "at line 1"
    assert await ends(2, ENQUEUED, error="took longer than 5 s") is None
    assert await ends(3, ENQUEUED, error="boom", traceback="at line 3") == "at line 3"
    assert await ends(4, SUCCEEDED, result="1") is None


async def test_a_traceback_does_not_outlive_a_cancel(world: World) -> None:
    worker, id_ = await world.running()
    await world.finish(ending(worker, id_, 1, ENQUEUED, error="boom", traceback="at line 1"))
    await world.cancel(id_)
    row = await world.row(id_)
    assert (row["last_error"], row["last_traceback"]) == ("cancelled before it ran", None)


async def test_an_ordinary_life_leaves_the_columns_of_failures_null(world: World) -> None:
    worker, id_ = await world.running()
    await world.finish(ending(worker, id_, 1, SUCCEEDED, result="1"))
    row = await world.row(id_)
    columns = ("last_traceback", "uncounted_attempts", "snoozes", "snoozed_since")
    assert [row[column] for column in columns] == [None] * 4


async def test_a_key_is_unique_within_its_type(world: World) -> None:
    await world.declare("other.send.v1")
    ids = [await world.one(keys=["k"]), await world.one(keys=["k"], type_="other.send.v1")]
    assert await world.enqueue(keys=["k"]) == []
    hits = [(await world.replay("k", type_=type_))[0] for type_ in (TYPE, "other.send.v1")]
    assert [(hit["id"], hit["same"]) for hit in hits] == [(id_, True) for id_ in ids]
    (conflict,) = await world.replay("k", '{"other": 1}', "other.send.v1")
    assert (conflict["id"], conflict["same"]) == (ids[1], False)


async def test_a_dead_letter_is_noted_once_and_only_for_its_failure(world: World) -> None:
    id_ = await world.failed()
    version = await world.version(id_)
    assert await world.dead_letter({id_: in_seconds(version, 1)}) == 0
    assert await world.dead_letter({id_: version}) == 1
    assert await world.dead_letter({id_: version}) == 0
    assert (await world.events(id_)).count("DLQ") == 1
    await world.redrive(id_)
    assert await world.dead_letter({id_: version}) == 0


async def test_a_renewal_extends_and_an_expired_lease_never_comes_back(world: World) -> None:
    worker = await world.worker(lease_seconds=30)
    lease = "SELECT lease_expires_at FROM workers WHERE id = $1"
    before = await world.sql.fetchval(lease, worker)
    assert await world.renew(worker, 60) == (True, [])
    assert await world.sql.fetchval(lease, worker) > before
    await world.expire(worker)
    assert await world.renew(worker, 60) == (False, [])
    assert await world.renew(uuid4()) == (False, [])


async def test_the_check_of_the_table_allows_exactly_the_statuses(world: World) -> None:
    text: str = await world.sql.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'tasks_status_check'"
    )
    assert {part for part in text.split("'") if part.isupper()} == {str(status) for status in TaskStatus}


async def _reach(world: World, status: TaskStatus) -> tuple[UUID, UUID]:
    worker, id_ = await world.running()
    if status is CANCELLED or status is ENQUEUED:
        await world.finish(ending(worker, id_, 1, ENQUEUED))
    if status is CANCELLED:
        await world.cancel(id_)
    if status in (SUCCEEDED, FAILED):
        await world.finish(ending(worker, id_, 1, status))
    return worker, id_


@pytest.mark.parametrize("status", [status for status in TaskStatus if status is not TaskStatus.DLQ])
async def test_the_functions_make_just_the_moves_of_the_state_machine(world: World, status: TaskStatus) -> None:
    reached = {status}
    for move in range(8):
        worker, id_ = await _reach(world, status)
        assert (await world.row(id_))["status"] == status
        match move:
            case 0:
                await world.claim(worker, id_)
            case 1 | 2 | 3 | 4:
                await world.finish(ending(worker, id_, 1, (SUCCEEDED, FAILED, ENQUEUED, CANCELLED)[move - 1]))
            case 5:
                await world.cancel(id_)
            case 6:
                await world.redrive(id_)
            case _:
                await world.release(worker, id_)
        reached.add(TaskStatus((await world.row(id_))["status"]))
    assert reached - {status} == TRANSITIONS[status]
    assert (status in TERMINAL) == (not TRANSITIONS[status] - {ENQUEUED})


async def test_a_type_that_tasks_refer_to_cannot_be_dropped(world: World) -> None:
    await world.one()
    await world.sql.execute("UPDATE task_type SET active = false")
    for _ in range(2):
        await world.sql.execute(query("task_type_deletion_begin"), TYPE)
        await world.sql.execute(query("task_type_delete"), TYPE)
        assert await world.sql.fetchval("SELECT count(*) FROM task_type") == 1

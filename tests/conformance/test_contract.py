"""The worker contract (docs/worker-contract.md), told by what a worker does: its language does not matter."""

import asyncio
import json
import signal
from uuid import uuid4

import pytest

from tests.conformance.conftest import Bench
from tests.support.system import call
from tests.support.waiting import LONG_SECONDS, eventually

LEASE_SECONDS = 15.0

pytestmark = pytest.mark.timeout(900)  # the first test builds the worker in Go


async def test_a_task_runs_once_and_its_result_is_kept(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.ok.v1", {"echo": {"deep": [1, "ä"]}})
    task = await bench.until(id_, "SUCCEEDED")
    assert (task["attempts"], task["result"]) == (1, {"attempt": 1, "echo": {"deep": [1, "ä"]}})
    assert await bench.events(id_) == ["ENQUEUED", "RUNNING", "SUCCEEDED"]


async def test_a_failing_task_is_retried_by_its_back_off_and_then_dead_lettered(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.fail.v1", {})
    task = await bench.until(id_, "FAILED")
    assert task["attempts"] == 2
    assert "as asked" in task["last_error"]
    started = await bench.sql("SELECT at FROM task_events WHERE task_id = $1 AND event = 'RUNNING' ORDER BY at", id_)
    assert (started[1]["at"] - started[0]["at"]).total_seconds() >= 0.9

    async def dead_lettered() -> bool:
        return "DLQ" in await bench.events(id_)

    await eventually(dead_lettered, "the copy in the dead letter queue is confirmed")


async def test_messages_that_are_doubled_forged_or_no_envelope_do_no_harm(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": 1})
    bodies = [json.dumps({"id": id_, "type": "conform.slow.v1"})] * 5
    bodies += ["", "{", "[]", '{"id": 7}', '{"id": "x"}', json.dumps({"id": str(uuid4()), "type": "a.v1"})]
    for body in bodies:
        await bench.publish(body)
    assert (await bench.until(id_, "SUCCEEDED"))["attempts"] == 1
    last = await bench.enqueue("conform.ok.v1", {})
    await bench.until(last, "SUCCEEDED")
    assert await bench.events(id_) == ["ENQUEUED", "RUNNING", "SUCCEEDED"]

    async def drained() -> bool:
        path = f"/api/queues/{bench.broker.vhost}/tasks.default"
        queue = await asyncio.to_thread(bench.broker.management.call, "GET", path)
        return bool(queue.get("messages") == 0)

    await eventually(drained, "every message is acknowledged")


async def test_a_type_without_a_handler_is_left_to_others(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.other.v1", {})
    await bench.until(await bench.enqueue("conform.ok.v1", {}), "SUCCEEDED")
    task = await bench.task(id_)
    assert (task["status"], task["attempts"]) == ("ENQUEUED", 0)


async def test_an_attempt_is_stopped_after_its_timeout(bench: Bench) -> None:
    await bench.sql("UPDATE task_type SET timeout_seconds = 1, default_max_attempts = 1 WHERE type = 'conform.slow.v1'")
    bench.worker()

    async def takes_the_new_budget() -> bool:
        id_ = await bench.enqueue("conform.slow.v1", {"seconds": 25})
        task = await bench.until(id_, "FAILED", 30.0)
        return "took longer than 1 s" in task["last_error"]

    await eventually(takes_the_new_budget, "an attempt is stopped", LONG_SECONDS)


async def test_a_running_task_is_cancelled_when_somebody_asks(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": 25})
    await bench.until(id_, "RUNNING")
    await call(f"http://{bench.api.address}/tasks/{id_}/cancel", {})
    task = await bench.until(id_, "CANCELLED", 15.0)
    assert task["attempts"] == 1


async def test_a_task_that_runs_longer_than_a_lease_stays_with_its_worker(bench: Bench) -> None:
    bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": LEASE_SECONDS + 3})
    assert (await bench.until(id_, "SUCCEEDED"))["attempts"] == 1


async def test_the_task_of_a_killed_worker_runs_again(bench: Bench) -> None:
    first = bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": 4})
    await bench.until(id_, "RUNNING")
    first.kill()
    bench.worker()
    task = await bench.until(id_, "SUCCEEDED")
    assert (task["attempts"], task["result"]) == (2, {"attempt": 2})


async def test_a_worker_that_was_frozen_past_its_lease_records_nothing(bench: Bench) -> None:
    first = bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": 5})
    await bench.until(id_, "RUNNING")
    first.send_signal(signal.SIGSTOP)
    bench.worker()
    task = await bench.until(id_, "SUCCEEDED")
    first.send_signal(signal.SIGCONT)
    # It is told that its lease is gone, and comes back as another worker.
    await bench.leased(2)
    await bench.until(await bench.enqueue("conform.ok.v1", {}), "SUCCEEDED")
    assert (task["attempts"], task["result"]) == (2, {"attempt": 2})
    assert await bench.task(id_) == task


@pytest.mark.parametrize(("seconds", "ended"), [(2, "SUCCEEDED"), (25, "ENQUEUED")])
async def test_sigterm_lets_a_short_task_end_and_hands_a_long_one_back(bench: Bench, seconds: int, ended: str) -> None:
    worker = bench.worker()
    id_ = await bench.enqueue("conform.slow.v1", {"seconds": seconds})

    async def has_started() -> bool:
        return "RUNNING" in await bench.events(id_)

    await eventually(has_started, "it has started", LONG_SECONDS)
    worker.terminate()
    assert await asyncio.to_thread(worker.wait, 30) == 0
    task = await bench.task(id_)
    assert task["status"] == ended
    (row,) = await bench.sql("SELECT count(*) FROM workers WHERE lease_expires_at > now()")
    assert row[0] == 0, "the lease is ended, not left to run out"
    left = await bench.sql("SELECT max_attempts - attempts AS left FROM tasks WHERE id = $1", id_)
    assert left[0]["left"] >= 2, "an attempt that was cut short costs no chance"


async def test_a_suspect_runs_alone_and_only_then_is_charged_for_its_worker(bench: Bench) -> None:
    others = [await bench.enqueue("conform.slow.v1", {"seconds": 2}) for _ in range(3)]
    suspect = await bench.enqueue("conform.slow.v1", {"seconds": 25})
    await bench.sql("UPDATE tasks SET suspected_at = now() - interval '1 minute' WHERE id = $1", suspect)
    worker = bench.worker()

    async def runs_alone() -> bool:
        (row,) = await bench.sql(
            "SELECT count(*) FILTER (WHERE alone_at IS NOT NULL) AS alone, count(*) AS running"
            " FROM tasks WHERE status = 'RUNNING'"
        )
        assert row["alone"] == 0 or row["running"] == 1, "nothing else runs meanwhile"
        return bool(row["alone"])

    await eventually(runs_alone, "the suspect runs alone", LONG_SECONDS)
    later = await bench.enqueue("conform.ok.v1", {})
    worker.kill()

    async def is_charged() -> bool:
        return bool((await bench.task(suspect))["crashes"] == 1)

    await eventually(is_charged, "the crash is charged to the suspect", LONG_SECONDS)
    bench.worker()
    for id_ in (*others, later):
        task = await bench.until(id_, "SUCCEEDED")
        assert (task["attempts"], task["crashes"]) == (1, 0)

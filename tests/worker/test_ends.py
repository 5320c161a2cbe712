"""After an attempt: the retry queue of its delay, the dead letter, the redrive, and the end of the worker."""

import asyncio
import time
import urllib.request
from collections.abc import Awaitable, Callable
from uuid import UUID

import pytest

from dtq.broker.dead_letters import drop_spent
from dtq.domain.envelope import decode
from tests.support.system import call
from tests.support.waiting import SHORT_SECONDS, eventually
from tests.worker.world import World


async def test_a_retry_waits_in_the_queue_of_its_delay_and_runs_again(world: World) -> None:
    await world.declare("w.fail", backoff={"strategy": "List", "delaysSeconds": [1]})
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.fail", max_attempts=5, times=2)
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"], row["result"]) == ("SUCCEEDED", 3, "3")
        assert running.count("dq_retries_total", type="w.fail") == 2
    times = await world.rows.sql.fetch(
        "SELECT event, extract(epoch FROM at)::float8 AS at FROM task_events WHERE task_id = $1 ORDER BY at, id", id_
    )
    starts = [row["at"] for row in times if row["event"] == "RUNNING"]
    ends = [row["at"] for row in times if row["event"] == "RETRY"]
    assert all(start - end > 0 for start, end in zip(starts[1:], ends, strict=True)), "never before its back-off"
    assert await world.rows.events(id_) == [
        "ENQUEUED", "RUNNING", "RETRY", "RUNNING", "RETRY", "RUNNING", "SUCCEEDED",
    ]  # fmt: skip


async def test_each_delay_waits_in_its_own_queue_and_its_due_time_is_stored(world: World) -> None:
    await world.declare("w.fail", backoff={"strategy": "List", "delaysSeconds": [3600]})
    async with world.worker():
        (id_,) = await world.enqueue("w.fail", max_attempts=5)

        async def waits() -> bool:
            return await world.ready("tasks.retry.default.3600s") == 1

        await eventually(waits, "the retry waits in its retry queue")
        row = await world.rows.row(id_)
        assert (row["status"], row["attempts"], row["last_error"]) == ("ENQUEUED", 1, "RuntimeError: attempt 1")
        assert 3500 < (row["run_at"] - await world.rows.now()).total_seconds() <= 3600

        async def is_confirmed() -> bool:
            return (await world.rows.row(id_))["needs_publish"] is False

        await eventually(is_confirmed, "the relay need not publish it")


async def test_jitter_shortens_a_delay_within_its_retry_queue(world: World) -> None:
    backoff = {"strategy": "List", "delaysSeconds": [3600], "jitterPercent": 100}
    await world.declare("w.fail", backoff=backoff)
    async with world.worker():
        ids = await world.enqueue("w.fail", 20, max_attempts=5)

        async def all_wait() -> bool:
            return await world.ready("tasks.retry.default.3600s") == 20

        await eventually(all_wait, "all wait in the retry queue")
    now = await world.rows.now()
    delays = [((await world.rows.row(id_))["run_at"] - now).total_seconds() for id_ in ids]
    assert max(delays) <= 3600
    assert max(delays) - min(delays) > 600, "they are spread"


async def test_a_delay_without_a_retry_queue_waits_in_postgres(world: World) -> None:
    await world.declare("w.fail")
    async with world.worker():
        (id_,) = await world.enqueue("w.fail", max_attempts=5, times=1, later=0.7)
        await world.has(id_, "ENQUEUED")
        assert await world.ready("tasks.retry.default.1s") == 0
        await eventually(lambda: _relayed(world, id_), "the relay publishes it when it is due")
        assert (await world.rows.row(id_))["attempts"] == 2


async def test_a_retry_of_a_bounded_queue_waits_in_postgres(world: World) -> None:
    await world.rows.sql.execute("UPDATE queue SET max_length = 100")
    await world.declare("w.fail", backoff={"strategy": "List", "delaysSeconds": [1]})
    async with world.worker():
        (id_,) = await world.enqueue("w.fail", max_attempts=5, times=1)

        async def waits() -> bool:
            row = await world.rows.row(id_)
            return (row["status"], row["attempts"], row["needs_publish"]) == ("ENQUEUED", 1, True)

        await eventually(waits, "the row waits for the relay")
        await eventually(lambda: _relayed(world, id_), "the relay publishes it when it is due")


async def test_the_last_attempt_fails_and_its_dead_letter_is_confirmed_and_told(world: World) -> None:
    await world.declare("w.fail", backoff={"strategy": "List", "delaysSeconds": [1]})
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.fail", max_attempts=2, times=2)
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"], row["last_error"]) == ("FAILED", 2, "RuntimeError: attempt 2")

        async def is_dead_lettered() -> bool:
            return await world.ready("tasks.dlq") == 1 and "DLQ" in await world.rows.events(id_)

        await eventually(is_dead_lettered, "its copy is confirmed")
        assert (await world.rows.events(id_))[-2:] == ["FAILED", "DLQ"]
        assert running.count("dq_dead_letters_total", type="w.fail") == 1

        assert await world.rows.redrive(id_) == {id_}
        await eventually(lambda: _relayed(world, id_, attempts=3), "the redrive runs")
        assert await drop_spent(world.publisher.broker, "tasks.dlq", _enqueued(world)) == 1
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"], row["max_attempts"]) == ("SUCCEEDED", 3, 4), "with a fresh budget"


async def test_dead_letters_name_their_task(world: World) -> None:
    await world.declare("w.fail")
    async with world.worker():
        ids = await world.enqueue("w.fail", 3, max_attempts=1)
        await world.ended(*ids)

        async def all_are_there() -> bool:
            return await world.ready("tasks.dlq") == 3

        await eventually(all_are_there, "every copy is there")
        channel = await world.publisher.broker.connection().channel(publisher_confirms=False)
        told = {decode((await channel.basic_get("tasks.dlq")).body).id for _ in ids}
        await channel.close()
        assert told == set(ids)


async def test_a_worker_that_stops_ends_what_runs_and_leaves_the_rest_uncounted(world: World) -> None:
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker(WORKER_CONCURRENCY="1") as running:
        first, *rest = await world.enqueue("w.wait.async", 10, seconds=8)
        await world.has(first, "RUNNING")
        await running.end()
        assert (await world.rows.row(first))["status"] == "SUCCEEDED"
        rows = [await world.rows.row(id_) for id_ in rest]
        assert {(row["status"], row["attempts"]) for row in rows} == {("ENQUEUED", 0)}

        async def all_are_back() -> bool:
            return await world.ready() == len(rest)

        await eventually(all_are_back, "their messages are back in the queue")


async def test_what_runs_longer_than_the_grace_is_given_back_without_costing_its_last_attempt(world: World) -> None:
    await world.declare("w.wait.async", timeout_seconds=60)
    async with world.worker(WORKER_DRAIN="1s") as running:
        (id_,) = await world.enqueue("w.wait.async", max_attempts=1, seconds=50)
        await world.has(id_, "RUNNING")
        asked_at = time.monotonic()
        await running.end()
        assert time.monotonic() - asked_at < 15
        assert running.count("dq_tasks_finished_total", type="w.wait.async", outcome="drained") == 1
    row = await world.rows.row(id_)
    assert (row["status"], row["attempts"], row["crashes"]) == ("ENQUEUED", 1, 0)
    async with world.worker():
        await eventually(lambda: _relayed(world, id_), "another worker takes it")
        assert (await world.ended(id_))[0]["status"] == "SUCCEEDED"


async def test_the_demo_handler_says_what_it_would_have_sent(world: World) -> None:
    await world.declare("email.send.v1")
    async with world.worker(WORKER_HANDLERS="dtq_worker.demo"):
        (id_,) = await world.enqueue("email.send.v1", to="ada@example.com", subject="hello")
        (row,) = await world.ended(id_)
        assert row["status"] == "SUCCEEDED"
        assert '"ada@example.com"' in row["result"]


async def test_the_worker_serves_its_health_and_its_metrics(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker() as running:
        for path in ("/healthz", "/readyz", "/livez"):
            assert (await call(running.url + path))[::2] == (200, {"status": "ok"})
        await world.ended(*(await world.enqueue("w.act.async", 3, gives="number")))
        await running.counted(3, "dq_tasks_finished_total", type="w.act.async", outcome="succeeded")
        text = await _text(f"{running.url}/metrics")
        assert 'dq_tasks_finished_total{outcome="succeeded",type="w.act.async"} 3.0' in text
        assert 'dq_deliveries_total{verdict="claimed"} 3.0' in text
        running.worker.consumer.broker.invalidate("test")
        status, _, told = await call(f"{running.url}/readyz")
        if status != 200:
            assert told["rmq"] == "not connected to RabbitMQ"
        assert (await call(f"{running.url}/livez"))[0] == 200
        await eventually(running.is_ready, "it is ready again")


@pytest.mark.parametrize("count", [1, 25])
async def test_a_worker_starts_and_stops_without_leaving_anything(world: World, count: int) -> None:
    await world.declare("w.act.async")
    async with world.worker():
        pass
    before = len(asyncio.all_tasks())
    for _ in range(min(count, 5)):
        async with world.worker():
            await world.ended(*(await world.enqueue("w.act.async", count, gives="number")))

    async def nothing_more() -> bool:
        return len(asyncio.all_tasks()) <= before

    await eventually(nothing_more, "no task is left behind", SHORT_SECONDS)


async def _text(url: str) -> str:
    def read() -> str:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return str(answer.read().decode())

    return await asyncio.to_thread(read)


async def _relayed(world: World, id_: UUID, attempts: int = 2) -> bool:
    await world.relay.once()
    return bool((await world.rows.row(id_))["attempts"] >= attempts)


def _enqueued(world: World) -> Callable[[list[UUID]], Awaitable[set[UUID]]]:
    async def which(ids: list[UUID]) -> set[UUID]:
        return {id_ for id_ in ids if (await world.rows.row(id_))["redrives"] > 0}

    return which


@pytest.mark.parametrize("mode", ["async", "process"])
async def test_a_snooze_spends_no_attempt(world: World, mode: str) -> None:
    type_ = f"w.snooze.{mode}"
    await world.declare(type_)
    async with world.worker() as running:
        (id_,) = await world.enqueue(type_, max_attempts=1, times=3)

        async def has_succeeded() -> bool:
            await world.relay.once()
            return bool((await world.rows.row(id_))["status"] == "SUCCEEDED")

        await eventually(has_succeeded, "it was put off three times and then ran")
        row = await world.rows.row(id_)
        assert (row["attempts"], row["max_attempts"], row["snoozes"], row["last_error"]) == (4, 4, 3, None)
        await running.counted(3, "dq_tasks_finished_total", type=type_, outcome="snoozed")


async def test_snoozes_do_not_lengthen_the_back_off_of_a_later_failure(world: World) -> None:
    await world.declare("w.snooze.async", backoff={"strategy": "List", "delaysSeconds": [3600, 7200]})
    async with world.worker():
        (id_,) = await world.enqueue("w.snooze.async", max_attempts=3, times=2, failures=1)

        async def has_failed() -> bool:
            await world.relay.once()
            return bool((await world.rows.row(id_))["last_error"] == "RuntimeError: attempt 3")

        await eventually(has_failed, "the third run fails")
        row = await world.rows.row(id_)
    assert 3000 < (row["run_at"] - await world.rows.now()).total_seconds() <= 3600


async def test_a_retry_asked_for_by_the_last_attempt_fails_the_task_and_says_so(world: World) -> None:
    await world.declare("w.fail")
    async with world.worker():
        (id_,) = await world.enqueue("w.fail", max_attempts=1, later=5)
        row = await world.has(id_, "FAILED")
    assert row["last_error"].endswith("attempt 1 of 1 was the last (Snooze does not count as an attempt)")

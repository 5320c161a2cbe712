"""The maintenance loops, each with two replicas at once: everything is done, and nothing twice."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx2

from dtq_api.main import Api
from tests.api.world import ANY, NAMESPACE, Running, serving
from tests.support.addresses import BrokerVhost
from tests.support.waiting import eventually


async def both(*steps: Callable[[], Awaitable[bool]]) -> None:
    """Run two replicas' steps side by side until neither has more to do."""

    async def until_done(step: Callable[[], Awaitable[bool]]) -> None:
        while await step():
            pass

    await asyncio.gather(*(until_done(step) for step in steps))


async def store(api: Running, count: int) -> list[UUID]:
    """Store tasks that are not published."""
    rows = await api.sql.fetch(
        "INSERT INTO tasks (id, type, queue, status, payload, needs_publish, publish_at)"
        " SELECT gen_random_uuid(), $1, 'default', 'ENQUEUED', '{}', true, now()"
        " FROM generate_series(1, $2) RETURNING id",
        ANY,
        count,
    )
    return [row["id"] for row in rows]


async def summed(name: str, *apis: Running, **labels: str) -> float:
    return sum([await api.metric(name, **labels) for api in apis])


async def partitions(api: Running) -> set[str]:
    """The names of the history's parts."""
    sql = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'task_events'::regclass"
    rows = await api.sql.fetch(sql)
    return {row[0] for row in rows}


def week_from(day: datetime) -> set[str]:
    """The partitions of a day and of the week ahead."""
    return {f"task_events_{day + timedelta(days=ahead):%Y%m%d}" for ahead in range(8)}


async def test_two_relays_publish_each_task_once(fresh_api: Running, replica: Running) -> None:
    ids = await store(fresh_api, 1_200)
    await both(fresh_api.api.maintenance.relay.once, replica.api.maintenance.relay.once)
    await fresh_api.becomes_ready(len(ids))
    assert await summed("dq_relay_published_total", fresh_api, replica) == len(ids)
    for _ in range(2):  # what is still waiting after a round is noted in the next
        await both(fresh_api.api.maintenance.confirms.flush, replica.api.maintenance.confirms.flush)
    assert await fresh_api.sql.fetchval("SELECT count(*) FROM tasks WHERE needs_publish = false") == len(ids)


async def test_two_relays_publish_each_missing_dead_letter_once(fresh_api: Running, replica: Running) -> None:
    await fresh_api.sql.execute(
        "INSERT INTO tasks (id, type, queue, status, attempts, payload, failed_at, dead_letter_at)"
        " SELECT gen_random_uuid(), $1, 'default', 'FAILED', 5, '{}', at, at"
        " FROM generate_series(1, 40), (SELECT now() - interval '1 minute' AS at) AS failed",
        ANY,
    )
    await both(fresh_api.api.maintenance.relay.once, replica.api.maintenance.relay.once)
    await fresh_api.becomes_ready(40, "dlq")
    events = await fresh_api.sql.fetch("SELECT count(*) FROM task_events WHERE event = 'DLQ' GROUP BY task_id")
    assert [row[0] for row in events] == [1] * 40
    await both(fresh_api.api.maintenance.relay.once, replica.api.maintenance.relay.once)
    await fresh_api.becomes_ready(40, "dlq")


async def test_two_reapers_take_each_lost_task_back_once(fresh_api: Running, replica: Running) -> None:
    ids = [await fresh_api.enqueued() for _ in range(12)]
    for id_ in ids:
        worker = await fresh_api.run(id_)
        await fresh_api.sql.execute(
            "UPDATE workers SET lease_expires_at = now() - interval '1 s' WHERE id = $1", worker
        )
    alive = await fresh_api.enqueued()
    await fresh_api.run(alive)
    await both(fresh_api.api.maintenance.reaper.once, replica.api.maintenance.reaper.once)
    for id_ in ids:
        assert await fresh_api.events(id_) == ["ENQUEUED", "RUNNING", "RETRY"]
        row = await fresh_api.row(id_)
        assert (row["status"], row["attempts"], row["crashes"]) == ("ENQUEUED", 1, 0)
    assert (await fresh_api.row(alive))["status"] == "RUNNING"
    assert await summed("dq_reaped_total", fresh_api, replica, status="ENQUEUED") == len(ids)
    assert await fresh_api.sql.fetchval("SELECT count(*) FROM workers WHERE reaped_at IS NOT NULL") == len(ids)


async def test_two_pruners_drop_what_is_over_and_count_it_once(fresh_api: Running, replica: Running) -> None:
    await fresh_api.sql.execute(
        "INSERT INTO tasks (id, type, queue, status, attempts, payload, updated_at)"
        " SELECT gen_random_uuid(), $1, 'default', 'SUCCEEDED', 1, '{}', now() - interval '8 days'"
        " FROM generate_series(1, 1100)",
        ANY,
    )
    kept = await fresh_api.enqueued()
    await fresh_api.end(kept, "SUCCEEDED")
    waiting = await fresh_api.enqueued()
    await both(fresh_api.api.maintenance.pruner.once, replica.api.maintenance.pruner.once)
    left = {row["id"] for row in await fresh_api.sql.fetch("SELECT id FROM tasks")}
    assert left == {kept, waiting}
    assert await summed("dq_pruned_total", fresh_api, replica) == 1_100


async def test_two_pruners_prepare_the_days_ahead_without_meeting(fresh_api: Running, replica: Running) -> None:
    before, since = await partitions(fresh_api), datetime.now(UTC)
    await both(fresh_api.api.maintenance.pruner.once, replica.api.maintenance.pruner.once)
    net = {"task_events_default"}
    # The day may have changed since the template was made, and may change meanwhile.
    assert await partitions(fresh_api) in [before | net | week_from(day) for day in (since, datetime.now(UTC))]


async def test_two_schedulers_fire_each_entry_once(fresh_api: Running, replica: Running) -> None:
    await fresh_api.sql.execute(
        "INSERT INTO schedule (type, name, cron, timezone, payload, next_fire_at)"
        " SELECT $1, 'entry-' || n, '0 0 29 2 *', 'UTC', '{}', date_trunc('minute', now())"
        " FROM generate_series(1, 30) AS n",
        ANY,
    )
    await both(fresh_api.api.maintenance.scheduler.once, replica.api.maintenance.scheduler.once)
    assert await fresh_api.written() == (30, 30)
    assert await summed("dq_schedule_fired_total", fresh_api, replica, type=ANY) == 30
    assert await fresh_api.sql.fetchval("SELECT count(*) FROM schedule WHERE next_fire_at <= now()") == 0
    await both(fresh_api.api.maintenance.relay.once, replica.api.maintenance.relay.once)
    await fresh_api.becomes_ready(30)


async def test_two_watches_repair_a_deleted_queue_and_have_its_tasks_published_once(
    fresh_api: Running, replica: Running
) -> None:
    ids = [await fresh_api.enqueued() for _ in range(20)]
    await fresh_api.becomes_ready(len(ids))
    await fresh_api.sql.execute("UPDATE tasks SET needs_publish = false")
    fresh_api.broker.management.call("DELETE", f"/api/queues/{fresh_api.broker.vhost}/{NAMESPACE}.default")

    async def repaired() -> bool:
        await both(fresh_api.api.maintenance.watch.once, replica.api.maintenance.watch.once)
        return bool(await fresh_api.sql.fetchval("SELECT count(*) FROM tasks WHERE needs_publish") == len(ids))

    await eventually(repaired, "the watch finds the lost tasks")
    await both(fresh_api.api.maintenance.relay.once, replica.api.maintenance.relay.once)
    await fresh_api.becomes_ready(len(ids))
    assert await summed("dq_relay_lost_total", fresh_api, replica) == len(ids)


async def test_two_whole_apis_publish_a_task_for_later_once(declared_dsn: str, broker_vhost: BrokerVhost) -> None:
    async with (
        serving(declared_dsn, broker_vhost) as (one, host, port),
        serving(declared_dsn, broker_vhost) as (other, _, _),
        httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client,
    ):
        for api in (one, other):
            await eventually(lambda api=api: _declared(api), "the topology is declared")  # type: ignore[misc]
        body = {"type": ANY, "payload": {}, "run_at": datetime.now(UTC).isoformat()}

        async def accepted() -> bool:
            return (await client.post("/enqueue", json=body)).status_code == 201

        for _ in range(10):
            await eventually(accepted, "the task is accepted")

        async def ready() -> int:
            hint = await client.get("/queues/default/scaling")
            return int(hint.json()["ready"]) if hint.status_code == 200 else -1

        async def published() -> bool:
            return await ready() >= 10

        async def published_once() -> bool:
            return await ready() == 10

        await eventually(published, "the tasks are published")
        assert len((await client.get("/tasks")).json()["tasks"]) == 10
        await eventually(published_once, "each of them once")


async def _declared(api: Api) -> bool:
    return not await api.health.everything()

"""A running worker follows the declarations: queues that come, go and come again, and what waited in them."""

import asyncio
import json
import time

from dtq.domain.manifests import QueueSet
from dtq.domain.owners import LOCAL_UID, Owner
from dtq_maintenance.mover import Mover
from dtq_reconcile.queue_sets import Reconciled, reconcile_queue_set
from tests.support.waiting import eventually
from tests.worker.world import Running, World

FOLLOW_SECONDS = 10.0
OWNER = Owner(uid=LOCAL_UID, namespace="default", name="default")


async def apply(world: World, *queues: str, name: str = "default", **spec: object) -> Reconciled:
    """Apply a QueueSet, as `dtq apply` does it."""
    wanted = {"queues": [{"name": queue} for queue in queues], "retry": {"delaysSeconds": [1]}} | spec
    manifest = QueueSet.model_validate({"kind": "QueueSet", "metadata": {"name": name}, "spec": wanted})
    return await reconcile_queue_set(world.database, world.vhost.url, manifest, OWNER)


async def consumed(world: World) -> set[str]:
    """The queues that have a consumer, as RabbitMQ says it."""
    path = f"/api/consumers/{world.vhost.vhost}"
    found = await asyncio.to_thread(world.vhost.management.call, "GET", path)
    return {consumer["queue"]["name"] for consumer in found}


async def follows(world: World, *queues: str) -> None:
    """Wait, as long as a worker may take, until exactly these queues have consumers."""
    started = time.monotonic()

    async def so() -> bool:
        return await consumed(world) == {f"tasks.{queue}" for queue in queues}

    await eventually(so, f"{queues} are consumed", FOLLOW_SECONDS)
    assert time.monotonic() - started < FOLLOW_SECONDS


async def runs(world: World, queue: str) -> None:
    """Have a task of a queue run."""
    (id_,) = await world.rows.enqueue(1, type_="w.act.async", payload=json.dumps({"gives": "number"}), max_attempts=1)
    await world.rows.sql.execute("UPDATE tasks SET queue = $1 WHERE id = $2", queue, id_)
    await world.relay.once()
    (row,) = await world.ended(id_)
    assert row["status"] == "SUCCEEDED"


async def reconnects(running: Running) -> float:
    return sum(running.count("dq_broker_reconnects_total", purpose=purpose) for purpose in ("publish", "consume"))


async def test_consumers_follow_queues_both_ways_without_a_new_connection(world: World) -> None:
    await world.declare("w.act.async")
    await apply(world, "default")
    async with world.worker(QUEUES="high,default") as running:
        await follows(world, "default")
        for _ in range(2):
            await apply(world, "high", "default")
            await follows(world, "high", "default")
            assert await running.is_ready()
            await runs(world, "high")
            await apply(world, "default")
            await follows(world, "default")
            assert await running.is_ready()
        await runs(world, "default")
        assert await reconnects(running) == 0


async def test_another_queue_set_does_not_touch_a_running_worker(world: World) -> None:
    await world.declare("w.act.async")
    await apply(world, "default")
    async with world.worker(QUEUES="default") as running:
        await apply(world, "default", name="reports", namespace="reports")
        world.vhost.management.call(
            "PUT",
            f"/api/permissions/{world.vhost.vhost}/{world.vhost.user}",
            {"configure": r"^tasks\..*", "write": ".*", "read": ".*"},
        )
        await world.rows.sql.execute(
            "WITH made AS (INSERT INTO queue_set (name, namespace, retry_delays_seconds)"
            " VALUES ('refused', 'refused', '{5}') RETURNING name)"
            " INSERT INTO queue (queue_set, name, position, type) SELECT name, 'q', 0, 'Quorum' FROM made"
        )
        await eventually(lambda: _has_read(running, "refused"), "the worker has read the declarations")
        await follows(world, "default")
        assert await running.is_ready()
        await runs(world, "default")
        assert await reconnects(running) == 0


async def test_a_worker_without_any_queue_says_so_and_comes_back_with_one(world: World) -> None:
    await world.declare("w.act.async")
    await apply(world, "high", "default")
    async with world.worker(QUEUES="high") as running:
        await apply(world, "default")

        async def says_so() -> bool:
            wrong = await running.worker._trouble()
            return wrong.keys() == {"queues"} and "none of QUEUES (high) is declared" in wrong["queues"]

        await eventually(says_so, "the worker says that it has no queue", FOLLOW_SECONDS)
        await follows(world)
        await apply(world, "high", "default")
        await follows(world, "high")
        assert await running.is_ready()


async def test_tasks_of_a_removed_queue_move_and_run(world: World) -> None:
    await world.declare("w.act.async")
    await apply(world, "high", "default")
    ids = await world.rows.enqueue(3, type_="w.act.async", payload=json.dumps({"gives": "number"}), max_attempts=1)
    await world.rows.sql.execute("UPDATE tasks SET queue = 'high' WHERE id = ANY ($1)", ids)
    await world.relay.once()
    refused = await apply(world, "default")
    assert refused.plan.refusal is not None
    assert "high (3)" in refused.plan.refusal.message
    async with world.worker(QUEUES="default"):
        await apply(world, "default", onRemoval={"policy": "MoveTo", "queue": "default"})
        assert await Mover(world.database).once() is False
        await world.relay.once()
        assert {row["status"] for row in await world.ended(*ids)} == {"SUCCEEDED"}


async def _has_read(running: Running, queue_set: str) -> bool:
    return queue_set in running.worker._queue_sets

"""Scaling: what a queue wants is published, and done where it is asked for; what is unknown is left alone."""

from dataclasses import replace

import pytest

from dtq.domain.manifests import Scaling
from dtq_operator.targets import Cooldown
from tests.operator.conftest import Start
from tests.operator.door import Door
from tests.operator.running import QUICK, Running
from tests.operator.scenarios import DEPLOYMENT, scaled
from tests.operator.world import World
from tests.support.kube_api import Object, eventually

BY_HAND = replace(QUICK, scaling_seconds=60.0)


def hint(found: Object) -> int | None:
    desired: int | None = found["status"]["queues"][0].get("desiredReplicas")
    return desired


async def until_replicas(world: World, count: int, *, look: Running | None = None) -> None:
    """Wait for replicas; `look` is an operator that looks only when it is told to."""

    async def has() -> bool:
        if look:
            await look.operator.scaler.once()
        return await world.replicas(DEPLOYMENT) == count

    await eventually(f"{count} replicas", has)


async def run_handlers(world: World, count: int, slots: int) -> None:
    """A worker that says of itself that it runs this many handlers."""
    await world.sql(
        "INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at, running)"
        " VALUES (gen_random_uuid(), 'w', '{}', '{}', $1, now() + interval '1 hour',"
        " jsonb_build_object('default/default', $2::int))",
        slots,
        count,
    )


async def test_the_backlog_is_published_in_status_and_as_a_metric(world: World, start: Start) -> None:
    running = await start()
    hints = {"minReplicas": 0, "targetBacklogPerReplica": 2, "cooldownSeconds": 0}
    obj = world.queue_set(queues=[{"name": "default", "scaling": hints}])
    await world.create_ready(obj)
    found = await world.until(obj, "ScalingActive", "True", "Published")
    assert hint(found) == 0
    await world.publish("tasks.default", 5)

    async def wants_three() -> bool:
        now = await world.get(obj)
        return now is not None and hint(now) == 3

    await eventually("three replicas are wanted", wants_three)
    assert running.metric("dq_queue_desired_replicas", queue_set="default", queue="default") == 3
    assert running.metric("dq_queue_messages", queue_set="default", queue="default", state="ready") == 5


async def test_the_operator_scales_up_and_down_within_the_bounds(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT)
    running = await start(pace=BY_HAND)
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await until_replicas(world, 0, look=running)
    await world.publish("tasks.default", 9)
    await until_replicas(world, 4, look=running)
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default/contents")
    await until_replicas(world, 0, look=running)
    assert "0 to 4 replicas" in str(await world.events(scaled(world)))


async def test_an_autoscaler_that_comes_has_the_deployment_to_itself(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT)
    await start()
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await until_replicas(world, 0)
    await world.create_autoscaler(DEPLOYMENT)
    found = await world.until(scaled(world), "ScalingActive", "False", "ExternallyManaged")
    assert "HorizontalPodAutoscaler mailer-hpa" in str(found["status"]["conditions"])
    await world.publish("tasks.default", 9)

    async def wants_four() -> bool:
        now = await world.get(scaled(world))
        return now is not None and hint(now) == 4

    await eventually("four replicas are wanted, and published", wants_four)
    assert await world.replicas(DEPLOYMENT) == 0


async def test_what_runs_is_never_scaled_away(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 5)
    await run_handlers(world, 3, slots=1)
    await start()
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=9, targetBacklogPerReplica=100))
    await until_replicas(world, 3)
    await world.sql("DELETE FROM workers")
    await until_replicas(world, 0)


async def test_what_is_unknown_scales_nothing_down(
    postgres_door: Door, rabbitmq_door: Door, world: World, start: Start
) -> None:
    await world.create_deployment(DEPLOYMENT)
    running = await start(pace=BY_HAND, **world.through(postgres_door, rabbitmq_door), DTQ_RESYNC_SECONDS="60s")
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await world.publish("tasks.default", 3)
    await until_replicas(world, 3, look=running)
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default/contents")
    await rabbitmq_door.shut()
    replicas = await world.replicas(DEPLOYMENT)
    for _ in range(3):
        await running.operator.scaler.once()
    assert await world.replicas(DEPLOYMENT) == replicas
    labels = {"queue_set": "default", "queue": "default"}
    assert running.operator.registry.get_sample_value("dq_queue_desired_replicas", labels) is None


@pytest.mark.parametrize(
    ("known", "steps", "settled"),
    [
        (None, [(0, 1), (1, 5), (2, 1)], [1, 5, 5]),
        (None, [(0, 5), (11, 1)], [5, 1]),
        (7, [(0, 1), (5, 1), (11, 1)], [7, 7, 1]),
        (99, [(0, 1)], [8]),
        (None, [(0, 12)], [12]),
    ],
    ids=[
        "falls late",
        "falls at last",
        "a new start forgets nothing",
        "a lower maximum holds at once",
        "what runs counts",
    ],
)
def test_cooldown(known: int | None, steps: list[tuple[float, int]], settled: list[int]) -> None:
    scaling = Scaling(max_replicas=8, cooldown_seconds=10)
    cooldown = Cooldown(known, 0.0)
    assert [cooldown.settle(wanted, scaling, now) for now, wanted in steps] == settled

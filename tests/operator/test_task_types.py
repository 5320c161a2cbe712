"""TaskType: every condition and reason, and what it leaves in Postgres."""

from tests.operator.conftest import Start
from tests.operator.world import TYPE, World


async def test_a_task_type_is_served(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(maxAttempts=7, payloadSchema={"type": "object"}))
    row = await world.row()
    assert row is not None
    assert (row["active"], row["default_max_attempts"], row["queue_set"]) == (True, 7, "default")
    found = await world.get(world.task_type())
    assert found is not None
    assert "finalizers" not in found["metadata"]
    assert "annotations" not in found["metadata"]
    assert len(found["status"]["schemaHash"]) == 12
    assert await world.conditions(world.task_type()) == {
        "Accepted": ("True", "Claimed"),
        "Synced": ("True", "RowMatches"),
        "Ready": ("True", "Accepting"),
        "Served": ("Unknown", "JustDeclared"),
        "Reconciling": ("False", "Settled"),
        "Stalled": ("False", "Settled"),
    }
    assert await world.claims() == {("TaskType", TYPE): world.namespace, ("QueueSet", "default"): world.namespace}

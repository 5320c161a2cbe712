"""One object's mistake stays its own, and a queue with tasks is not removed under them."""

from dtq_db.connections import Database
from dtq_maintenance.mover import Mover
from tests.operator.conftest import Start
from tests.operator.world import World
from tests.support.waiting import CHANGE_SECONDS, eventually

TWO = [{"name": "default"}, {"name": "low"}]


async def test_a_set_that_rabbitmq_refuses_says_so_and_leaves_the_other_ready(world: World, start: Start) -> None:
    await world.allow(configure=r"^tasks\..*")
    await start()
    refused = world.queue_set("reports", namespace="reports")
    await world.create(refused)
    await world.create_ready(world.queue_set(), world.task_type())
    found = await world.until(refused, "TopologyDeclared", "False", "AccessRefused")
    conditions = {each["type"]: each for each in found["status"]["conditions"]}
    assert conditions["Ready"]["status"] == "False"
    assert "reports.direct" in conditions["Ready"]["message"]
    assert "grant configure" in conditions["Ready"]["message"]
    assert await names(world, "queue_set") == ["default"], "no promise is in force"
    await world.allow()
    await world.until(refused, "Ready", "True")
    assert await names(world, "queue_set") == ["default", "reports"]


async def test_a_queue_is_removed_only_without_its_tasks_or_moves_them_and_the_condition_counts_them(
    world: World, start: Start
) -> None:
    await start()
    await world.create_ready(world.queue_set(queues=TWO), world.task_type())
    await world.sql(
        "INSERT INTO tasks (id, type, queue, status, payload, needs_publish, publish_at, run_at)"
        " SELECT gen_random_uuid(), 'email.send.v1', 'low', 'ENQUEUED', '{}', false, now(), now() + n * interval '1 h'"
        " FROM generate_series(0, 2) n"
    )
    await world.patch(world.queue_set(), {"spec": {"queues": TWO[:1]}})
    found = await world.until(world.queue_set(), "Accepted", "False", "InUse")
    message = next(condition["message"] for condition in found["status"]["conditions"] if condition["type"] == "Ready")
    assert message.startswith("tasks wait in queues that the manifest removes: low (3); let them run, or set onRemoval")
    assert await names(world, "queue") == ["default", "low"]

    await world.patch(world.queue_set(), {"spec": {"onRemoval": {"policy": "MoveTo", "queue": "default"}}})
    found = await world.until(world.queue_set(), "Reconciling", "True", "MovingTasks")
    conditions = {each["type"]: each for each in found["status"]["conditions"]}
    assert conditions["Reconciling"]["message"].endswith("left to move: low (3)")
    assert conditions["Ready"]["status"] == "True"
    assert await names(world, "queue") == ["default"]

    await world.sql("SELECT dtq_move('default', 'low', 2)")

    async def counts_down() -> bool:
        found = await world.get(world.queue_set())
        return found is not None and "left to move: low (1)" in str(found["status"]["conditions"])

    await eventually(counts_down, "the condition counts what is left", CHANGE_SECONDS)
    async with Database(world.dsn, name="test") as database:
        await Mover(database).once()
    await world.until(world.queue_set(), "Reconciling", "False", "Settled")


async def names(world: World, table: str) -> list[str]:
    """The names in a table, in order."""
    return [row["name"] for row in await world.sql(f"SELECT name FROM {table} ORDER BY name")]

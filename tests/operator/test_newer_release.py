"""The operator beside a newer release's rows, and on a database that is not migrated: it waits and says so."""

import json

import pytest

from tests.operator.conftest import Start
from tests.operator.world import TYPE, World
from tests.support.system import System
from tests.support.waiting import CHANGE_SECONDS, eventually


async def test_claims_of_kinds_that_only_a_newer_release_knows_are_nobodys_orphans(world: World, start: Start) -> None:
    await world.sql("ALTER TABLE resource_claim DROP CONSTRAINT resource_claim_kind_check")
    await world.sql(
        "INSERT INTO resource_claim (kind, key, owner_uid, owner_namespace, owner_name)"
        " VALUES ('WorkerPool', 'default', 'next', $1, 'default')",
        world.namespace,
    )
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type())
    for _ in range(3):
        await running.sweep()
    assert ("WorkerPool", "default") in await world.claims()
    assert running.metric("dq_operator_orphans") == 0


async def test_rows_of_a_newer_release_are_read_and_written_back_as_declared(world: World, start: Start) -> None:
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type(backoff={"strategy": "Fixed", "delaySeconds": 7}))
    await world.sql("ALTER TABLE queue DROP CONSTRAINT queue_type_check")
    await world.sql("UPDATE task_type SET backoff = '{\"strategy\": \"Fibonacci\"}', deletion_policy = 'Archive'")
    await world.sql("UPDATE queue_set SET deletion_policy = 'Archive'")
    await world.sql("INSERT INTO queue (queue_set, name, position, type) VALUES ('default', 'log', 9, 'Stream')")
    await running.sweep()

    async def is_as_declared() -> bool:
        row = await world.row()
        assert row is not None
        queues = await world.sql("SELECT name FROM queue")
        return json.loads(row["backoff"])["strategy"] == "Fixed" and [queue["name"] for queue in queues] == ["default"]

    await eventually(is_as_declared, "the rows are as declared", CHANGE_SECONDS)
    await world.until(world.task_type(), "Ready", "True")
    await world.until(world.queue_set(), "Ready", "True")


async def test_the_policy_of_the_object_counts_whatever_its_row_says(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy="Delete"))
    await world.sql("UPDATE task_type SET deletion_policy = 'Archive'")
    await world.delete(world.task_type())
    await world.until_gone(world.task_type())
    assert await world.row() is None


async def test_the_message_of_a_newer_field_names_it_and_the_row_stays(world: World, start: Start) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tasktypes.dtq.dev"
    crd = await world.kube.call("GET", path)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    running = await start()
    await world.create_ready(world.queue_set(), world.task_type(maxAttempts=7))
    # A watch that began before the change goes on telling without the field: that of a new operator does not.
    await running.end()
    spec["priority"] = {"type": "integer"}
    await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    try:

        async def is_kept() -> bool:
            patched = await world.patch(world.task_type(), {"spec": {"priority": 3}})
            return "priority" in patched["spec"]

        await eventually(is_kept, "the definition keeps the new field", CHANGE_SECONDS)
        await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
        await start()
        found = await world.until(world.task_type(), "Ready", "False", "NewerRelease")
        row = await world.row()  # once the field is unknown again, the operator may apply the rest
    finally:
        del spec["priority"]
        await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    (ready,) = [condition for condition in found["status"]["conditions"] if condition["type"] == "Ready"]
    assert "spec.priority" in ready["message"]
    assert row is not None
    assert row["default_max_attempts"] == 7, "the row stays as it was"


@pytest.mark.timeout(300)
async def test_an_operator_on_an_unmigrated_database_waits_without_a_traceback(world: World, system: System) -> None:
    await world.sql("ALTER SCHEMA public RENAME TO not_yet")
    operator = system.operator()
    await operator.ready()
    await world.create(world.queue_set(), world.task_type())
    found = await world.until(world.task_type(), "Ready", "False", "DatabaseNotMigrated", seconds=60.0)
    (ready,) = [condition for condition in found["status"]["conditions"] if condition["type"] == "Ready"]
    assert "dtq migrate" in ready["message"]
    await world.until(world.queue_set(), "Ready", "False", "DatabaseNotMigrated", seconds=60.0)
    await world.sql("ALTER SCHEMA not_yet RENAME TO public")
    await world.until(world.task_type(), "Ready", "True", seconds=60.0)
    assert operator.popen.poll() is None
    assert "Traceback" not in operator.log.read_text()
    assert (await world.row(TYPE)) is not None

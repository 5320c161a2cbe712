"""Two reconcilers of one queue set: they take turns, and every object that both handle has an owner."""

import asyncio
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from dtq.broker.admin import Admin
from dtq.broker.declare import Declared
from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSet
from dtq.domain.owners import Owner
from dtq.domain.plan import Action, Reason
from dtq.domain.topology import Topology
from dtq.runtime import failpoints
from dtq_db import resources
from dtq_db.connections import Database
from dtq_reconcile.queue_sets import reconcile_queue_set, release_queue_set
from tests.support.addresses import BrokerVhost

OWNER = Owner(uid="one", namespace="apps", name="default", generation=1)
MEETING_SECONDS = 10.0


def queue_set() -> QueueSet:
    return QueueSet.model_validate(
        {
            "kind": "QueueSet",
            "metadata": {"name": "default"},
            "spec": {"queues": [{"name": "default"}], "deletionPolicy": "DeleteIfEmpty"},
        }
    )


async def test_a_queue_set_that_is_deleted_while_another_declares_it_leaves_no_queue(
    dsn: str, broker_vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare, delete = Admin.declare, Admin.delete
    comes_to_declare, is_deleted, is_declared = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def declare_late(self: Admin, *args: Any, **how: Any) -> Declared:
        comes_to_declare.set()
        await is_deleted.wait()
        found = await declare(self, *args, **how)
        is_declared.set()
        return found

    async def delete_early(self: Admin, topology: Topology) -> None:
        await delete(self, topology)
        is_deleted.set()
        await is_declared.wait()

    manifest = queue_set()
    async with Database(dsn, name="test") as database, asyncio.timeout(MEETING_SECONDS):
        await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER)
        monkeypatch.setattr(Admin, "declare", declare_late)
        monkeypatch.setattr(Admin, "delete", delete_early)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(reconcile_queue_set(database, broker_vhost.url, manifest, OWNER))
            await comes_to_declare.wait()
            await release_queue_set(database, broker_vhost.url, "default", OWNER)
        assert await resources.claims(database) == []
    path = f"/api/queues/{quote(broker_vhost.vhost, safe='')}"
    assert await asyncio.to_thread(broker_vhost.management.call, "GET", path) == []


async def test_what_a_reconcile_has_mended_before_it_failed_is_told_by_the_next(
    dsn: str, broker_vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, lost = queue_set(), set[str]()
    declare = Admin.declare

    async def declare_and_fail(self: Admin, *args: Any, **how: Any) -> Declared:
        await declare(self, *args, **how)
        raise Unavailable("cut off after the declaration")

    async with Database(dsn, name="test") as database:
        await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER)
        path = f"/api/queues/{quote(broker_vhost.vhost, safe='')}/tasks.default"
        await asyncio.to_thread(broker_vhost.management.call, "DELETE", path)
        with monkeypatch.context() as patch:
            patch.setattr(Admin, "declare", declare_and_fail)
            with pytest.raises(Unavailable):
                await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER, lost=lost)
        done = await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER, lost=lost)
    assert [(step.action, step.target) for step in done.plan.steps] == [(Action.DECLARE, "tasks.default")]


async def test_the_copies_of_a_lost_dead_letter_queue_are_due_though_its_reconciler_died_after_declaring_it(
    dsn: str, broker_vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = queue_set()
    monkeypatch.setattr(failpoints, "hit", failpoints.hit)  # disarmed at the end
    sql = await asyncpg.connect(dsn)
    async with Database(dsn, name="test") as database:
        await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER)
        await sql.execute("INSERT INTO task_type (type, default_queue) VALUES ('a.v1', 'default')")
        await sql.execute(
            "INSERT INTO tasks (id, type, queue, status, payload, failed_at, dead_lettered_at)"
            " VALUES (gen_random_uuid(), 'a.v1', 'default', 'FAILED', '{}', now(), now())"
        )
        path = f"/api/queues/{quote(broker_vhost.vhost, safe='')}/tasks.dlq"
        await asyncio.to_thread(broker_vhost.management.call, "DELETE", path)
        failpoints.arm("reconcile.topology_declared=raise@1")
        with pytest.raises(failpoints.InjectedBug):
            await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER, lost=set())
        # A new process knows nothing of the queue that was missing.
        await reconcile_queue_set(database, broker_vhost.url, manifest, OWNER, lost=set())
    row = await sql.fetchrow("SELECT dead_letter_at, dead_lettered_at FROM tasks")
    await sql.close()
    assert row is not None
    assert row["dead_letter_at"] is not None
    assert row["dead_lettered_at"] is None


async def test_a_forced_deletion_strands_no_accepted_task(dsn: str, broker_vhost: BrokerVhost) -> None:
    spec = {"namespace": "others", "queues": [{"name": "default"}], "deletionPolicy": "Delete"}
    manifest = QueueSet.model_validate({"kind": "QueueSet", "metadata": {"name": "others"}, "spec": spec})
    owner = Owner(uid="two", namespace="apps", name="others", generation=1)
    sql = await asyncpg.connect(dsn)
    async with Database(dsn, name="test") as database:
        await reconcile_queue_set(database, broker_vhost.url, manifest, owner)
        # Its type has moved to another set since the task was accepted.
        await sql.execute("INSERT INTO task_type (type, default_queue) VALUES ('a.v1', 'default')")
        id_ = await sql.fetchval(
            "INSERT INTO tasks (id, type, queue_set, queue, status, payload, needs_publish, publish_at)"
            " VALUES (gen_random_uuid(), 'a.v1', 'others', 'default', 'ENQUEUED', '{}', true, now()) RETURNING id"
        )
        refused = await release_queue_set(database, broker_vhost.url, "others", owner, force=True)
        assert refused.refusal is not None
        assert refused.refusal.reason is Reason.IN_USE
        assert "default (1)" in refused.refusal.message
        async with resources.transaction(database) as found:
            assert await found.queue_set("others") is not None
        await sql.execute("SELECT dtq_cancel($1)", id_)
        done = await release_queue_set(database, broker_vhost.url, "others", owner, force=True)
        assert [str(step.action) for step in done.steps] == ["delete", "release"]
    await sql.close()

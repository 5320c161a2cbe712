"""Two reconcilers of one queue set: they take turns, and what both have a hand in belongs to somebody."""

import asyncio
from urllib.parse import quote

import pytest

from dtq.broker.admin import Admin
from dtq.broker.declare import Declared
from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSet
from dtq.domain.owners import Owner
from dtq.domain.plan import Action
from dtq.domain.topology import Topology
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

    async def declare_late(self: Admin, topology: Topology, lost: set[str] | None = None) -> Declared:
        comes_to_declare.set()
        await is_deleted.wait()
        found = await declare(self, topology, lost)
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

    async def declare_and_fail(self: Admin, topology: Topology, lost: set[str] | None = None) -> Declared:
        await declare(self, topology, lost)
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

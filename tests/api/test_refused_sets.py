"""Beside a queue set that RabbitMQ refuses: its tasks are refused with the reason, and all others go on."""

import pytest

from dtq.domain.manifests import QueueSet, TaskType
from dtq.domain.rows import queue_set_row, task_type_row
from dtq_db.connections import Database
from dtq_db.resources import transaction
from tests.api.world import ANY, NAMESPACE, problem, running
from tests.support.addresses import BrokerVhost
from tests.support.waiting import eventually

OTHER = "report.build.v1"


async def declare_reports(dsn: str) -> None:
    """Write a second queue set and a type of it, as an earlier release or another user of the broker may have."""
    queue_set = {"kind": "QueueSet", "metadata": {"name": "reports"}, "spec": {"namespace": "reports"}}
    queue_set["spec"] |= {"queues": [{"name": "default", "type": "Classic"}], "retry": {"delaysSeconds": [5]}}  # type: ignore[operator]
    type_ = {"kind": "TaskType", "metadata": {"name": OTHER}, "spec": {"queueSetRef": {"name": "reports"}}}
    async with Database(dsn, name="test") as database, transaction(database) as resources:
        await resources.put_queue_set(queue_set_row(QueueSet.model_validate(queue_set)))
        await resources.put_task_type(task_type_row(TaskType.model_validate(type_)))


def permit(broker: BrokerVhost, configure: str) -> None:
    """Change what our user may declare."""
    rights = {"configure": configure, "write": ".*", "read": ".*"}
    broker.management.call("PUT", f"/api/permissions/{broker.vhost}/{broker.user}", rights)


@pytest.mark.parametrize("mode", ["refuse", "accept"])
async def test_a_task_of_a_refused_set_is_refused_with_the_reason_and_the_others_are_accepted(
    declared_dsn: str, broker_vhost: BrokerVhost, mode: str
) -> None:
    await declare_reports(declared_dsn)
    permit(broker_vhost, rf"^{NAMESPACE}\..*")
    async with running(declared_dsn, broker_vhost, ENQUEUE_WHEN_BROKER_DOWN=mode) as api:
        refused = problem(await api.enqueue(OTHER), 503, "Unavailable")
        assert "queue set 'reports' is not declared: RabbitMQ refuses to declare" in refused["detail"]
        assert await api.written() == (0, 0)
        await api.enqueued()

        assert (await api.client.get("/readyz")).status_code == 200
        health = await api.client.get("/healthz")
        assert health.status_code == 503
        assert set(health.json()) == {"status", "queue_set/reports"}
        assert "grant configure" in health.json()["queue_set/reports"]
        assert await api.metric("dq_queue_set_declared", queue_set="reports") == 0
        assert await api.metric("dq_queue_set_declared", queue_set="default") == 1

        permit(broker_vhost, ".*")

        async def is_mended() -> bool:
            await api.api.maintenance.declarer.retry()
            return (await api.client.get("/healthz")).status_code == 200

        await eventually(is_mended, "the set is declared and healthy")
        await api.enqueued(OTHER)


async def test_the_relay_and_the_dead_letters_of_the_others_pass_what_a_refused_set_holds(
    declared_dsn: str, broker_vhost: BrokerVhost
) -> None:
    await declare_reports(declared_dsn)
    permit(broker_vhost, rf"^{NAMESPACE}\..*")
    async with running(declared_dsn, broker_vhost) as api:
        insert = (
            "INSERT INTO tasks (id, type, queue_set, queue, status, payload, needs_publish, publish_at, failed_at,"
            " dead_letter_at) SELECT gen_random_uuid(), $1, $2, 'default', $3, '{}', $4, $5, $6, $6"
            " FROM generate_series(1, 600)"
        )
        now = await api.sql.fetchval("SELECT now() - interval '1 h'")
        await api.sql.execute(insert, OTHER, "reports", "ENQUEUED", True, now, None)
        await api.sql.execute(insert, OTHER, "reports", "FAILED", None, None, now)
        await api.sql.execute(insert.replace("600", "1"), ANY, "default", "ENQUEUED", True, now, None)
        await api.sql.execute(insert.replace("600", "1"), ANY, "default", "FAILED", None, None, now)
        await api.api.maintenance.relay.once()
        published = await api.sql.fetch("SELECT queue_set FROM tasks WHERE needs_publish AND publish_at > now()")
        copied = await api.sql.fetch("SELECT queue_set FROM tasks WHERE dead_lettered_at IS NOT NULL")
        assert [row["queue_set"] for row in published] == ["default"]
        assert [row["queue_set"] for row in copied] == ["default"]
        held = await api.sql.fetchval("SELECT count(*) FROM tasks WHERE queue_set = 'reports' AND publish_at = $1", now)
        assert held == 600, "nothing is written about what has to wait"

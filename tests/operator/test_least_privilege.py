"""The operator with a database role and RabbitMQ permissions of its own, and no more."""

import asyncio
import re
import shlex
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest_asyncio

from tests.operator.world import TYPE, World
from tests.support.addresses import PostgresService
from tests.support.roles import as_user, create_roles, login_user
from tests.support.system import REPOSITORY, System
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually

PAGE = (REPOSITORY / "docs" / "install.md").read_text()


@pytest_asyncio.fixture(loop_scope="session")
async def users(world: World, postgres_server: PostgresService) -> AsyncIterator[dict[str, str]]:
    """The environment that gives an operator users of its own, with the permissions of docs/install.md."""
    await create_roles(postgres_server, world.dsn)
    (line,) = re.findall(r"^rabbitmqctl set_permissions .* dtq_operator .*$", PAGE, re.MULTILINE)
    *_, configure, write, read = shlex.split(line)
    management = world.broker.management
    async with login_user(postgres_server, "IN ROLE dtq_operator") as (user, password):
        account = {"password": password, "tags": ""}
        rights = {"configure": configure, "write": write, "read": read}
        permissions = f"/api/permissions/{quote(world.broker.vhost, safe='')}/{user}"
        await asyncio.to_thread(management.call, "PUT", f"/api/users/{user}", account)
        await asyncio.to_thread(management.call, "PUT", permissions, rights)
        yield {"DB_DSN": as_user(world.dsn, user, password), "RMQ_USER": user, "RMQ_PASS": password}
        await asyncio.to_thread(management.call, "DELETE", f"/api/users/{user}")


async def test_the_operator_declares_repairs_and_deletes(world: World, system: System, users: dict[str, str]) -> None:
    process = system.operator(**users, DTQ_RESYNC_SECONDS="1s")
    queue_set = world.queue_set(deletionPolicy="DeleteIfEmpty")
    schedule = {"name": "yearly", "cron": "0 0 1 1 *", "payload": {}}
    task_type = world.task_type(deletionPolicy="Delete", schedule=[schedule], concurrency={"limit": 1})
    await world.create(queue_set, task_type)
    await world.until(queue_set, "Ready", "True", seconds=LONG_SECONDS)
    await world.until(task_type, "Ready", "True", seconds=LONG_SECONDS)
    await world.until(task_type, "Served", "Unknown", "JustDeclared", seconds=LONG_SECONDS)
    assert set(await world.claims()) == {("TaskType", TYPE), ("QueueSet", "default")}

    path = f"/api/queues/{quote(world.broker.vhost, safe='')}/tasks.default"
    await asyncio.to_thread(world.broker.management.call, "DELETE", path)

    async def is_repaired() -> bool:
        return "tasks.default" in await world.queues()

    await eventually(is_repaired, "the queue is declared again", LONG_SECONDS)
    await world.patch(queue_set, {"spec": {"queues": [{"name": "default"}, {"name": "more"}]}})

    async def is_extended() -> bool:
        return "tasks.more" in await world.queues()

    await eventually(is_extended, "a queue is added", LONG_SECONDS)
    await world.patch(queue_set, {"spec": {"queues": [{"name": "default"}]}})
    await world.delete(task_type)
    await world.delete(queue_set)
    await world.until_gone(task_type, seconds=LONG_SECONDS)
    await world.until_gone(queue_set, seconds=LONG_SECONDS)

    async def nothing_is_left() -> bool:
        return (await world.claims(), await world.row()) == ({}, None)

    await eventually(nothing_is_left, "nothing is left", CHANGE_SECONDS)
    refused = re.compile(r"lacks a privilege|permission denied|access refused|AccessRefused", re.IGNORECASE)
    assert refused.findall(process.log.read_text()) == []

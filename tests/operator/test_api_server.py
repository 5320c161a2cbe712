"""The API server as it is on bad days: refusals, lost answers, slow, cut and silent watches, and none at all."""

import asyncio
import json
import threading
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import kopf
import pytest

from dtq_operator import watch
from dtq_operator.store import key_of, version
from hack.cluster.control_plane import ControlPlane
from tests.operator.conftest import Start
from tests.operator.running import Running
from tests.operator.world import TYPE, World
from tests.support.kube_proxy import KubeProxy
from tests.support.waiting import CHANGE_SECONDS, LONG_SECONDS, eventually

RELIST_SECONDS = 40.0
"""A watch that ended is opened again and lists everything, in seconds."""


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 409},
        {"status": 429, "headers": {"Retry-After": "1"}},
        {"status": 500},
        {"status": 503},
        {"status": 504},
        {"cut": "before"},
        {"cut": "after"},
        {"delay_seconds": 1.0},
    ],
    ids=json.dumps,
)
async def test_a_status_that_cannot_be_written_is_written_later(
    proxy: KubeProxy, world: World, start: Start, fault: dict[str, object]
) -> None:
    struck = proxy.strike("PATCH .*/status", times=3, **fault)
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    assert struck.struck >= 2
    assert (await world.claims()).keys() == {("QueueSet", "default"), ("TaskType", TYPE)}


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"status": 410}, {"cut": "before"}])
async def test_lists_and_watches_that_fail_are_tried_again(
    proxy: KubeProxy, world: World, start: Start, fault: dict[str, object]
) -> None:
    struck = proxy.strike("GET .*/tasktypes", times=4, **fault)
    await start()
    await world.create(world.queue_set(), world.task_type())
    await world.until(world.task_type(), "Ready", "True", seconds=60)
    assert struck.struck == 4


async def test_a_finalizer_that_loses_a_race_is_set_on_the_newer_version(
    proxy: KubeProxy, world: World, start: Start
) -> None:
    proxy.strike(f"PATCH .*/tasktypes/{TYPE}$", status=409, times=2)
    await start()
    await world.create_ready(world.queue_set(), world.task_type(deletionPolicy="Delete"))
    assert await world.finalizers(world.task_type()) == ["dtq.dev/operator"]


async def test_what_happens_while_the_watches_are_cut_is_not_missed(
    proxy: KubeProxy, world: World, start: Start
) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    for attempts in range(2, 6):
        proxy.cut_watches()
        await world.patch(world.task_type(), {"spec": {"maxAttempts": attempts}})
        await world.until(world.task_type(), "Ready", "True")
    row = await world.row()
    assert row is not None
    assert row["default_max_attempts"] == 5


@pytest.mark.parametrize("code", [410, 500])
async def test_a_watch_that_reports_an_error_is_opened_again(
    proxy: KubeProxy, world: World, start: Start, code: int
) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    lists = proxy.count("GET .*/tasktypes(?!.*watch)")
    status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code}
    proxy.say_to_watches(json.dumps({"type": "ERROR", "object": status}).encode())
    await eventually(lambda: _after(proxy, lists), "everything is listed again", RELIST_SECONDS)
    await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
    await world.until(world.task_type(), "Ready", "True", seconds=RELIST_SECONDS)


async def _after(proxy: KubeProxy, lists: int) -> bool:
    return proxy.count("GET .*/tasktypes(?!.*watch)") > lists + 1


async def test_a_kopf_that_does_not_come_to_its_end_is_replaced(
    proxy: KubeProxy, world: World, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when one of kopf's tasks swallows its cancellation: kopf waits for it, and watches nothing."""
    may_end, spawn, lives = threading.Event(), kopf.spawn_tasks, 0

    async def never_ends() -> None:
        while not may_end.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    async def spawn_with_a_stubborn_one(**arguments: Any) -> Collection[asyncio.Task[None]]:
        nonlocal lives
        lives += 1
        tasks = await spawn(**arguments)
        return [*tasks, asyncio.create_task(never_ends())] if lives == 1 else tasks

    monkeypatch.setattr(kopf, "spawn_tasks", spawn_with_a_stubborn_one)
    monkeypatch.setattr(watch, "KOPF_SECONDS", 0.5)
    monkeypatch.setattr(watch, "END_SECONDS", 1.0)
    try:
        settings = watch.configure()
        settings.networking.error_backoffs = (0.1,)
        running = await start(kopf_settings=settings, DTQ_RESYNC_SECONDS="1h")
        await world.create_ready(world.queue_set(), world.task_type())
        proxy.strike(r"GET .*/tasktypes\?.*watch=true", status=403)
        proxy.cut_watches()

        async def has_begun_anew() -> bool:
            return lives > 1

        await eventually(has_begun_anew, "another kopf begins", CHANGE_SECONDS)
        proxy.clear()
        await world.patch(world.task_type(), {"spec": {"maxAttempts": 7}})
        key = key_of("TaskType", world.task_type())

        async def is_told() -> bool:
            known = running.operator.store.get(key)
            return known is not None and known["spec"].get("maxAttempts") == 7

        await eventually(is_told, "the watch tells again", CHANGE_SECONDS)
    finally:
        may_end.set()


async def test_a_silent_watch_is_made_up_for_by_the_sweep_and_told_by_liveness(
    proxy: KubeProxy, world: World, start: Start
) -> None:
    running: Running = await start(DTQ_RESYNC_SECONDS="200ms")
    await world.create_ready(world.queue_set(), world.task_type())
    await _until_told(running, world)

    async def is_alive() -> bool:
        return await running.operator._alive() == {}

    await eventually(is_alive, "it is alive", CHANGE_SECONDS)
    proxy.silence_watches()
    await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
    await world.until(world.task_type(), "Ready", "True")
    row = await world.row()
    assert row is not None
    assert row["default_max_attempts"] == 9

    async def is_stale() -> bool:
        return "watch" in await running.operator._alive()

    await eventually(is_stale, "liveness notices", CHANGE_SECONDS)


async def test_an_outage_of_the_api_server_is_no_reason_to_be_restarted(
    proxy: KubeProxy, world: World, start: Start
) -> None:
    running = await start(DTQ_RESYNC_SECONDS="200ms")
    await world.create_ready(world.queue_set(), world.task_type())
    await _until_told(running, world)
    outage = proxy.strike(".", status=503)
    before = running.operator.sweep.tried_at
    await eventually(
        lambda: _is(running.operator.sweep.tried_at > before + 3.0), "sweeps fail for a while", CHANGE_SECONDS
    )
    assert await running.operator._alive() == {}
    assert outage.struck > 3
    proxy.clear()
    await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
    await world.until(world.task_type(), "Ready", "True", seconds=60)


async def _until_told(running: Running, world: World) -> None:
    """Wait until the watch has told of both objects as they are, and have a sweep see it."""

    async def is_told() -> bool:
        versions = running.operator.watch.versions
        found = [await world.get(obj) for obj in (world.queue_set(), world.task_type())]
        return all(obj is not None and versions.get(key_of(obj["kind"], obj), 0) >= version(obj) for obj in found)

    await eventually(is_told, "the watch has told of both", CHANGE_SECONDS)
    await running.sweep()


async def _is(value: bool) -> bool:  # noqa: FBT001 - it only wraps one
    return value


async def test_the_api_server_itself_stops_and_comes_back(plane: ControlPlane, world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    await asyncio.to_thread(plane.kill_api_server)
    await world.sql("UPDATE task_type SET default_max_attempts = 1")
    await asyncio.to_thread(plane.start_api_server)

    async def is_mended() -> bool:
        row = await world.row()
        return row is not None and row["default_max_attempts"] == 5

    await eventually(is_mended, "drift is mended again", LONG_SECONDS)
    await world.patch(world.task_type(), {"spec": {"maxAttempts": 9}})
    await world.until(world.task_type(), "Ready", "True", seconds=60)


async def test_a_second_operator_is_harmless(world: World, start: Start) -> None:
    await start()
    await start()
    types = [world.task_type(f"email.t{number}", deletionPolicy="Delete") for number in range(5)]
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"), *types)
    for task_type in types:
        await world.patch(task_type, {"spec": {"maxAttempts": 9}})
        await world.until(task_type, "Ready", "True")
    await world.broker_call("DELETE", "/api/queues/{vhost}/tasks.default")
    await eventually(lambda: _has(world, "tasks.default"), "the queue is back", CHANGE_SECONDS)
    for task_type in types:
        await world.delete(task_type)
        await world.until_gone(task_type)
    await world.delete(world.queue_set())
    await world.until_gone(world.queue_set())
    assert await world.claims() == {}
    assert await world.queues() == {}


async def _has(world: World, queue: str) -> bool:
    return queue in await world.queues()

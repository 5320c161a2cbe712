"""Two thousand task types at once: each is ready soon, for two requests, and then there is silence."""

import asyncio
from dataclasses import replace
from typing import Any, Final

import pytest

from bench.operator_load import WRITES, requests_of
from tests.operator.conftest import Start
from tests.operator.running import QUICK, Running
from tests.operator.world import World
from tests.support.waiting import eventually

TYPES: Final = 2000
AT_ONCE: Final = 16
SECONDS: Final = 300


@pytest.mark.timeout(2 * SECONDS)
async def test_two_thousand_at_once(world: World, start: Start) -> None:
    # No worker serves these types: their status would report that in a second write if creating them took long.
    running: Running = await start(pace=replace(QUICK, unserved_seconds=SECONDS), DTQ_RESYNC_SECONDS="30s")
    await world.create_ready(world.queue_set())
    before = requests_of(await world.kube.call("GET", "/metrics"))
    limit = asyncio.Semaphore(AT_ONCE)

    async def create(number: int) -> None:
        async with limit:
            await world.create(world.task_type(f"many.t{number}"))

    await asyncio.gather(*(create(number) for number in range(TYPES)))
    await eventually(lambda: _ready(running), "all are ready", SECONDS)
    asked = requests_of(await world.kube.call("GET", "/metrics")) - before
    assert asked["POST tasktypes"] == asked["PATCH tasktypes/status"] == TYPES
    assert sum(count for verb, count in asked.items() if "tasktypes" in verb) <= 2.1 * TYPES

    before = requests_of(await world.kube.call("GET", "/metrics"))
    for _ in range(2):
        await running.sweep()
    asked = requests_of(await world.kube.call("GET", "/metrics")) - before
    assert {verb: count for verb, count in asked.items() if verb.split()[0] in WRITES} == {}
    assert len(await world.sql("SELECT 1 FROM task_type")) == TYPES


async def _ready(running: Running) -> bool:
    operator: Any = running.operator
    operator.sweep._count()
    return running.metric("dq_operator_objects", kind="TaskType", ready="true") == TYPES

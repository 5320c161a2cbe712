"""Limits of a task type: never exceeded by any mix of claims, and nothing stays blocked once there is room."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dtq.domain.states import TaskStatus
from dtq_db.queries import query
from tests.db.world import TYPE, World, ending, in_seconds

MakeWorld = Callable[[], Awaitable[World]]
HOLD_SECONDS = 10.0
BLOCKED_MINUTES = 5
NO_KEY = ('{"customer": 1}', '{"customer": null}', '{"customer": {"id": null}}', "[1]", '"x"')


async def limit(world: World, *, concurrency: Any = None, rate: Any = None, type_: str = TYPE) -> None:
    await world.sql.execute(
        "UPDATE task_type SET concurrency = $2::text::jsonb, rate_limit = $3::text::jsonb WHERE type = $1",
        type_,
        None if concurrency is None else json.dumps(concurrency),
        None if rate is None else json.dumps(rate),
    )


async def unblock(world: World, *slots: str, at_most: int = 500) -> list[UUID]:
    chosen = list(slots) or [row["slot"] for row in await world.sql.fetch(query("slot_blocked"), "", 500)]
    return [row["id"] for row in await world.sql.fetch(query("task_unblock"), chosen, at_most, HOLD_SECONDS)]


async def succeed(world: World, worker: UUID, won: dict[UUID, int]) -> None:
    await world.finish(*(ending(worker, id_, attempt, TaskStatus.SUCCEEDED) for id_, attempt in won.items()))


async def pass_time(world: World, seconds: float) -> None:
    """Move what was stored into the past, since the clock of the database cannot be moved."""
    await world.sql.execute("UPDATE type_limit SET refilled_at = refilled_at - make_interval(secs => $1)", seconds)


async def test_no_more_run_at_once_than_the_limit_allows_and_the_oldest_go_first(world: World) -> None:
    await limit(world, concurrency={"limit": 2})
    ids, worker = await world.enqueue(5), await world.worker()
    won = await world.claim(worker, *ids)
    assert sorted(won) == sorted(ids)[:2]
    assert await world.claim(worker, *ids) == {}
    assert await unblock(world) == []
    await succeed(world, worker, {id_: won[id_] for id_ in list(won)[:1]})
    (woken,) = await unblock(world)
    assert woken == sorted(ids)[2]
    assert list(await world.claim(worker, *ids)) == [woken]


async def test_a_blocked_task_waits_in_postgres_and_is_looked_at_again_by_itself(world: World) -> None:
    await limit(world, concurrency={"limit": 1})
    ids, worker = sorted(await world.enqueue(2)), await world.worker()
    await world.claim(worker, *ids)
    waiting = await world.row(ids[1])
    assert (waiting["status"], waiting["needs_publish"], waiting["blocked_on"]) == ("ENQUEUED", True, TYPE)
    now = await world.now()
    assert timedelta(0) < waiting["publish_at"] - now <= timedelta(minutes=BLOCKED_MINUTES)
    assert await world.relay() == []
    assert await world.events(ids[1]) == ["ENQUEUED"]


async def test_each_value_of_the_key_has_a_limit_of_its_own(world: World) -> None:
    await limit(world, concurrency={"limit": 1, "key": "customer.id"})
    payloads = ['{"customer": {"id": 7}}', '{"customer": {"id": 7}}', '{"customer": {"id": "8"}}', "{}", "{}"]
    ids = [await world.one(payload=payload) for payload in payloads]
    won = await world.claim(await world.worker(), *ids)
    assert set(won) == {ids[0], ids[2], ids[3]}
    assert len({(await world.row(id_))["slot"] for id_ in won}) == 3


@pytest.mark.parametrize("payload", NO_KEY)
async def test_a_payload_without_the_key_shares_one_slot(world: World, payload: str) -> None:
    await limit(world, concurrency={"limit": 1, "key": "customer.id"})
    ids = [await world.one(payload=payload), await world.one()]
    assert len(await world.claim(await world.worker(), *ids)) == 1


@pytest.mark.parametrize("end", ["succeeded", "retried", "failed", "released", "cancelled", "lost"])
async def test_every_way_out_of_running_frees_the_slot(world: World, end: str) -> None:
    await limit(world, concurrency={"limit": 1})
    first, second = sorted(await world.enqueue(2))
    worker = await world.worker()
    assert await world.claim(worker, first, second) == {first: 1}
    match end:
        case "released":
            await world.release(worker, first)
        case "cancelled":
            await world.cancel(first)
            await world.finish(ending(worker, first, 1, TaskStatus.CANCELLED))
        case "lost":
            await world.finish(ending(worker, first, 1, TaskStatus.ENQUEUED, delay_seconds=60, crashed=True))
        case "retried":
            await world.finish(ending(worker, first, 1, TaskStatus.ENQUEUED, delay_seconds=60))
        case _:
            await world.finish(ending(worker, first, 1, TaskStatus[end.upper()]))
    assert (await world.row(first))["slot"] is None
    assert await unblock(world) == [second]
    assert await world.claim(worker, second) == {second: 1}


async def test_a_cancelled_task_no_longer_waits_for_room(world: World) -> None:
    await limit(world, concurrency={"limit": 1})
    first, second = sorted(await world.enqueue(2))
    await world.claim(await world.worker(), first, second)
    assert await world.cancel(second) == ("CANCELLED", True)
    assert (await world.row(second))["blocked_on"] is None


async def test_a_storm_of_claims_never_exceeds_the_limit(world: World, another: MakeWorld) -> None:
    await limit(world, concurrency={"limit": 7})
    ids = await world.enqueue(60)
    worlds = [await another() for _ in range(6)]
    workers = [await world.worker() for _ in worlds]
    won = await asyncio.gather(*(world.claim(worker, *ids) for world, worker in zip(worlds, workers, strict=True)))
    assert sum(map(len, won)) == 7
    assert await world.sql.fetchval("SELECT count(*) FROM tasks WHERE status = 'RUNNING'") == 7


async def test_no_more_start_than_the_rate_allows(world: World) -> None:
    await limit(world, rate={"tasks": 10, "perSeconds": 60, "burst": 3})
    ids, worker = await world.enqueue(12), await world.worker()
    assert len(await world.claim(worker, *ids)) == 3
    assert await unblock(world) == []
    await pass_time(world, 12.1)
    woken = await unblock(world)
    assert len(woken) == 2
    assert len(await world.claim(worker, *ids)) == 2
    await pass_time(world, 3600)
    assert len(await unblock(world)) == 3, "a quiet time saves up no more than the burst"


async def test_a_rate_without_burst_allows_its_tasks_at_once(world: World) -> None:
    await limit(world, rate={"tasks": 4, "perSeconds": 1})
    ids = await world.enqueue(9)
    assert len(await world.claim(await world.worker(), *ids)) == 4


async def test_a_task_that_finds_no_place_costs_no_token(world: World) -> None:
    await limit(world, concurrency={"limit": 1}, rate={"tasks": 2, "perSeconds": 3600})
    ids, worker = await world.enqueue(4), await world.worker()
    won = await world.claim(worker, *ids)
    assert len(won) == 1
    await succeed(world, worker, won)
    won = await world.claim(worker, *await unblock(world))
    assert len(won) == 1
    await succeed(world, worker, won)
    assert await unblock(world) == []


async def test_limits_of_one_type_leave_the_others_alone(world: World) -> None:
    await world.declare("other.v1")
    await limit(world, concurrency={"limit": 1})
    ids, others, worker = await world.enqueue(3), await world.enqueue(3, type_="other.v1"), await world.worker()
    won = await world.claim(worker, *ids, *others, types=[TYPE, "other.v1"])
    assert len(won.keys() & set(ids)) == 1
    assert won.keys() >= set(others)
    assert (await world.row(others[0]))["slot"] is None


async def test_what_is_not_due_paused_or_not_served_takes_no_place(world: World) -> None:
    await limit(world, concurrency={"limit": 1}, rate={"tasks": 1, "perSeconds": 3600})
    worker = await world.worker()
    later = await world.one(run_at=in_seconds(await world.now(), 60))
    assert await world.claim(worker, later) == {}
    id_ = await world.one()
    assert await world.claim(worker, id_, types=["other.v1"]) == {}
    await world.sql.execute("UPDATE queue_set SET paused = true")
    assert await world.claim(worker, id_) == {}
    await world.sql.execute("UPDATE queue_set SET paused = false")
    assert (await world.row(id_))["blocked_on"] is None
    assert await world.claim(worker, id_) == {id_: 1}


async def test_a_limit_that_is_raised_or_removed_lets_the_blocked_go(world: World) -> None:
    await limit(world, concurrency={"limit": 1})
    ids, worker = await world.enqueue(4), await world.worker()
    await world.claim(worker, *ids)
    await limit(world, concurrency={"limit": 3})
    assert len(await unblock(world)) == 2
    await limit(world)
    assert await world.sql.fetchval("SELECT count(*) FROM type_limit") == 0
    assert len(await unblock(world)) == 1
    assert len(await world.claim(worker, *ids)) == 3


async def test_two_relays_do_not_pick_the_same_blocked_task(world: World, another: MakeWorld) -> None:
    await limit(world, concurrency={"limit": 2})
    ids, worker = await world.enqueue(4), await world.worker()
    await succeed(world, worker, await world.claim(worker, *ids))
    other = await another()
    async with world.sql.transaction():
        first = await unblock(world)
        second = await unblock(other)
    assert len(first) == 2
    assert not set(first) & set(second)


@given(plan=st.lists(st.tuples(st.sampled_from("cfu"), st.integers(0, 11)), max_size=25), places=st.integers(1, 4))
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
async def test_any_order_of_events_keeps_the_limit_and_forgets_nobody(
    world: World, plan: list[tuple[str, int]], places: int
) -> None:
    await world.sql.execute("TRUNCATE tasks, task_events, workers")
    await limit(world, concurrency={"limit": places})
    ids, worker = await world.enqueue(12), await world.worker()
    running: dict[UUID, int] = {}
    for what, number in plan:
        match what:
            case "c":
                running |= await world.claim(worker, *ids[number:])
            case "f" if running:
                id_ = list(running)[number % len(running)]
                await succeed(world, worker, {id_: running.pop(id_)})
            case "u":
                await unblock(world)
        counted = await world.sql.fetchval("SELECT count(*) FROM tasks WHERE slot IS NOT NULL")
        assert counted == len(running) <= places
    await succeed(world, worker, running)
    while running := await world.claim(worker, *ids):
        await succeed(world, worker, running)
    assert await world.sql.fetchval("SELECT count(*) FROM tasks WHERE status <> 'SUCCEEDED'") == 0


@pytest.mark.parametrize("concurrency", [{"limit": "50%"}, {"limits": [1]}, {"limit": {"share": 1}}, ["x"], None])
@pytest.mark.parametrize("rate", [{"tasks": "many", "perSeconds": 1}, {"rates": []}, {"tasks": 5}, "x", None])
async def test_a_limit_of_a_newer_release_fails_no_statement(world: World, concurrency: Any, rate: Any) -> None:
    await limit(world, concurrency={"limit": 1}, rate={"tasks": 100, "perSeconds": 1})
    ids, worker = await world.enqueue(3), await world.worker()
    won = await world.claim(worker, *ids)
    assert len(won) == 1
    await limit(world, concurrency=concurrency, rate=rate)
    # A worker that does not understand the limits leaves the type out; one that does has functions of its release.
    assert await world.claim(worker, *ids, types=["another.v1"]) == {}
    await unblock(world)
    await world.claim(worker, *ids)
    await succeed(world, worker, won)

"""Suspects in a worker: each runs while nothing else does, and none waits here while another worker is free."""

import json
import time
from uuid import UUID

import pytest

from dtq.domain import suspects as rules
from tests.support.waiting import eventually
from tests.worker.world import Running, World


async def suspects(world: World, count: int, **payload: object) -> list[UUID]:
    """Tasks whose worker was lost while it ran all of them."""
    ids = await world.rows.enqueue(count, type_="w.span", payload=json_of(payload))
    lost = await world.rows.worker(types=["w.span"])
    await world.rows.claim(lost, *ids, types=["w.span"])
    await world.rows.expire(lost)
    while await world.reaper.once():
        pass
    return ids


async def spans(world: World, *ids: UUID, seconds: float = 60.0) -> list[tuple[float, float]]:
    """When each task ran, once all have ended; the relay goes on meanwhile."""

    async def all_ended() -> bool:
        await world.relay.once()
        rows = [await world.rows.row(id_) for id_ in ids]
        return all(row["status"] in ("SUCCEEDED", "FAILED", "CANCELLED") for row in rows)

    await eventually(all_ended, "all have ended", seconds)
    rows = [await world.rows.row(id_) for id_ in ids]
    assert {row["status"] for row in rows} == {"SUCCEEDED"}
    return [tuple(json.loads(row["result"])) for row in rows]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one[0] < other[1] and other[0] < one[1]


async def test_seven_suspects_and_what_else_waits_run_apart_and_soon(world: World) -> None:
    await world.declare("w.span", timeout_seconds=60)
    ids = await suspects(world, 7, seconds=0.2)
    async with world.worker() as running:
        began = time.monotonic()
        others = await world.enqueue("w.span", 5, seconds=0.5)
        ran = await spans(world, *ids, *others)
        assert time.monotonic() - began < 30
        for number, alone in enumerate(ran[:7]):
            assert not any(overlap(alone, other) for other in ran[:number] + ran[number + 1 :]), "it ran alone"
        assert any(overlap(ran[7], other) for other in ran[8:]), "the others ran side by side"
        assert running.count("dq_tasks_running") == 0
    rows = [await world.rows.row(id_) for id_ in ids]
    assert {(row["attempts"], row["crashes"], row["suspected_at"]) for row in rows} == {(2, 0, None)}


async def test_a_busy_worker_hands_a_suspect_on_to_one_that_is_free(world: World) -> None:
    await world.declare("w.span", timeout_seconds=120)
    async with world.worker() as busy:
        (long,) = await world.enqueue("w.span", seconds=40)
        await world.has(long, "RUNNING")
        (id_,) = await suspects(world, 1, seconds=0)
        await world.relay.once()
        await world.has(id_, "RUNNING")
        async with world.worker():
            await spans(world, id_)
            assert (await world.rows.row(long))["status"] == "RUNNING", "it was not waited for"
            assert busy.worker.lease.worker_id != (await world.rows.row(id_))["worker_id"]
        busy.worker.intake.cancel([long])
    assert (await world.rows.row(id_))["attempts"] == 2, "handing it on costs nothing"


async def test_a_worker_that_is_never_idle_ends_what_it_runs_and_then_runs_the_suspect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "FREE_SECONDS", 0.0)
    await world.declare("w.span", timeout_seconds=120)
    async with world.worker(WORKER_CONCURRENCY="2"):
        first = await world.enqueue("w.span", seconds=6)
        await world.has(first[0], "RUNNING")
        (id_,) = await suspects(world, 1, seconds=0)
        await world.relay.once()
        await world.has(id_, "RUNNING")
        later = await world.enqueue("w.span", 20, seconds=0.2)
        ran = await spans(world, id_, *first, *later)
        assert not any(overlap(ran[0], other) for other in ran[1:])
        assert ran[0][1] < min(began for began, _ in ran[2:]), "what came later waited, and the suspect did not starve"


async def test_a_worker_that_stops_gives_the_suspects_back_that_it_has_not_started(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "HAND_ON_SECONDS", 60.0)
    await world.declare("w.span", timeout_seconds=120)
    async with world.worker(WORKER_DRAIN="1s") as running:
        first = await world.enqueue("w.span", seconds=100)
        await world.has(first[0], "RUNNING")
        ids = await suspects(world, 3, seconds=0)
        await world.relay.once()

        async def one_is_held() -> bool:
            return any([(await world.rows.row(id_))["status"] == "RUNNING" for id_ in ids])

        await eventually(one_is_held, "it has claimed one, and claims nothing more")
        await running.end()
    rows = [await world.rows.row(id_) for id_ in ids]
    assert {(row["status"], row["attempts"], row["crashes"]) for row in rows} == {("ENQUEUED", 1, 0)}
    assert all(row["suspected_at"] is not None for row in rows)


async def test_a_suspect_that_waits_for_its_turn_can_be_cancelled(world: World) -> None:
    await world.declare("w.span", timeout_seconds=60)
    async with world.worker():
        first = await world.enqueue("w.span", seconds=8)
        await world.has(first[0], "RUNNING")
        (id_,) = await suspects(world, 1, seconds=0)
        await world.relay.once()
        await world.has(id_, "RUNNING")
        await world.rows.cancel(id_)
        await world.has(id_, "CANCELLED", seconds=8)


@pytest.mark.usefixtures("short_lease")
async def test_an_outage_of_postgres_makes_no_suspects(world: World) -> None:
    await world.declare("w.span", timeout_seconds=60)
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.span", max_attempts=3, seconds=50)
        row = await world.has(id_, "RUNNING")
        async with world.rows.sql.transaction():
            await world.rows.sql.execute("LOCK TABLE workers, tasks IN ACCESS EXCLUSIVE MODE")
            await eventually(lambda: is_fenced(running), "the worker is fenced")
        row = await world.has(id_, "ENQUEUED")
        assert (row["suspected_at"], row["crashes"]) == (None, 0)
        assert row["last_error"].startswith("the worker was stopped before the attempt ended: Postgres did not answer")
        assert (await world.rows.sql.fetchval("SELECT max_attempts - attempts FROM tasks WHERE id = $1", id_)) >= 2


@pytest.mark.usefixtures("short_lease")
async def test_a_lease_that_ends_while_postgres_answers_leaves_suspects(world: World) -> None:
    await world.declare("w.span", timeout_seconds=60)
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.span", max_attempts=3, seconds=50)
        await world.has(id_, "RUNNING")
        assert running.worker.lease.worker_id is not None
        await world.rows.expire(running.worker.lease.worker_id)
        await eventually(lambda: is_fenced(running), "the worker is fenced")
        assert (await world.rows.row(id_))["status"] == "RUNNING", "it records nothing"
        while await world.reaper.once():
            pass
        row = await world.rows.row(id_)
        assert (row["status"], row["suspected_at"] is None, row["crashes"]) == ("ENQUEUED", False, 0)


async def is_fenced(running: Running) -> bool:
    return running.count("dq_leases_lost_total") == 1 and running.count("dq_tasks_running") == 0


def json_of(payload: dict[str, object]) -> str:
    return json.dumps(payload)

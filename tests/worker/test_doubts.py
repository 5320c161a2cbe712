"""What a worker does when it was not told how a statement ended, or whether a message was kept."""

import asyncio
import time

import pytest

from dtq.broker.consumer import Delivery
from dtq.runtime import failpoints
from dtq.runtime.loops import wait
from dtq_worker import finisher
from tests.support.waiting import eventually
from tests.worker.world import World

LOCKED_SECONDS = 8.0
"""How long the table is locked, in seconds: longer than a try to record an end may wait."""


@pytest.fixture
def disarmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failpoints that a test arms are off again after it."""
    monkeypatch.setattr(failpoints, "hit", failpoints.hit)


@pytest.mark.usefixtures("disarmed")
async def test_a_worker_that_stops_gives_back_what_an_unanswered_claim_took(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker() as running:
        failpoints.arm("claim.committed=unavailable@1")
        (id_,) = await world.enqueue("w.act.async", gives="number")
        await world.has(id_, "RUNNING")
        await running.end()
    assert await world.rows.events(id_) == ["ENQUEUED", "RUNNING", "RELEASED"]
    row = await world.rows.row(id_)
    assert (row["status"], row["attempts"], row["crashes"]) == ("ENQUEUED", 0, 0)


async def test_an_end_is_recorded_however_long_postgres_is_away(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finisher, "LEASE_SECONDS", 1.0)
    await world.declare("w.wait.async")
    async with world.worker():
        (id_,) = await world.enqueue("w.wait.async", seconds=3)
        await world.has(id_, "RUNNING")
        async with world.rows.sql.transaction():
            await world.rows.sql.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
            await wait(asyncio.Event(), LOCKED_SECONDS)
        row = await world.has(id_, "SUCCEEDED")
    assert (row["attempts"], row["crashes"]) == (1, 0), "its lease held: nobody else may end it"


@pytest.mark.usefixtures("disarmed")
async def test_a_retry_whose_confirm_never_ends_holds_up_no_shutdown(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finisher, "FOLLOW_SECONDS", 0.5)
    await world.declare("w.fail", backoff={"strategy": "List", "delaysSeconds": [3600]})
    async with world.worker() as running:
        failpoints.arm("retry.published=hang")
        (id_,) = await world.enqueue("w.fail", max_attempts=5)

        async def is_published() -> bool:
            return await world.ready("tasks.retry.default.3600s") == 1

        await eventually(is_published, "the retry waits in its retry queue")
        asked_at = time.monotonic()
        await running.end()
        assert time.monotonic() - asked_at < 10
    assert (await world.rows.row(id_))["needs_publish"], "the relay will publish it once more"


@pytest.mark.usefixtures("disarmed")
async def test_a_claim_whose_lease_is_lost_before_its_handler_starts_is_given_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.declare("w.act.async")
    async with world.worker() as running:
        lease, acked = running.worker.lease, running.worker.consumer.ack

        async def ack_while_the_lease_is_lost(deliveries: list[Delivery]) -> None:
            await acked(deliveries)
            monkeypatch.setattr(running.worker.consumer, "ack", acked)
            worker_id = lease.worker_id
            assert worker_id is not None
            monkeypatch.setattr(lease, "_valid_until", 0.0)
            running.worker.intake.fence(worker_id, postgres_was_away=True)

        monkeypatch.setattr(running.worker.consumer, "ack", ack_while_the_lease_is_lost)
        (id_,) = await world.enqueue("w.act.async", gives="number")

        async def is_released() -> bool:
            return "RELEASED" in await world.rows.events(id_)

        await eventually(is_released, "the claim is given back")
        row = await world.rows.row(id_)
        assert (row["attempts"], row["crashes"]) == (0, 0)
    assert "SUCCEEDED" not in await world.rows.events(id_)

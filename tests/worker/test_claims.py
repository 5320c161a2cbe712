"""From a delivery to a running handler: batches, acknowledgements, duplicates, and what must not run."""

import asyncio
import json
from typing import Any
from uuid import UUID, uuid4

import aiormq
import pytest
from pamqp.commands import Basic

from dtq.broker import messages
from dtq.broker.driver import Connection
from dtq_worker.handing_on import HANDED_ON_MAX
from tests.support.waiting import eventually
from tests.worker.world import NAMESPACE, Running, World

JSON = "application/json"


async def test_deliveries_are_claimed_in_batches(world: World) -> None:
    await world.declare("w.act.async")
    ids = await world.rows.enqueue(200, type_="w.act.async", payload='{"gives": "number"}')
    async with world.worker():
        await world.send([messages.work(NAMESPACE, "default", id_, "w.act.async") for id_ in ids])
        assert {row["status"] for row in await world.ended(*ids)} == {"SUCCEEDED"}
    statements = await world.rows.sql.fetchval("SELECT count(DISTINCT at) FROM task_events WHERE event = 'RUNNING'")
    assert statements < 100, "a statement for each task would be one transaction each"


async def test_a_message_is_acknowledged_only_once_its_claim_is_committed(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker():
        locker = world.rows.sql.transaction()
        (held,) = await world.rows.enqueue(1, type_="w.act.async", payload='{"gives": "number"}')
        await locker.start()
        await world.rows.sql.execute("SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE", held)
        await world.send([messages.work(NAMESPACE, "default", held, "w.act.async")])

        async def waits_unacknowledged() -> bool:
            return await _unacknowledged(world) == 1

        await eventually(waits_unacknowledged, "the message waits for its claim")
        await locker.rollback()
        row = await world.has(held, "SUCCEEDED")
        assert row["attempts"] == 1

        async def is_acknowledged() -> bool:
            return await _unacknowledged(world) == 0

        await eventually(is_acknowledged, "the message is gone")


async def test_a_worker_without_postgres_holds_its_messages_and_goes_on_afterwards(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker() as running:
        for _ in range(5):
            await world.rows.sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'dtq-worker%' AND datname = current_database()"
            )
            ids = await world.enqueue("w.act.async", 10, gives="number")
            assert {row["attempts"] for row in await world.ended(*ids)} == {1}
        assert await running.is_ready()


async def test_a_message_that_comes_five_times_runs_its_task_once(world: World) -> None:
    await world.declare("w.wait.async")
    async with world.worker() as running:
        (id_,) = await world.enqueue("w.wait.async", seconds=0.5)
        await world.send([messages.work(NAMESPACE, "default", id_, "w.wait.async")] * 4)
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1)

        async def all_dropped() -> bool:
            return running.count("dq_deliveries_total", verdict="dropped") == 4

        await eventually(all_dropped, "the copies are dropped and counted")
        await world.send([messages.work(NAMESPACE, "high", id_, "w.wait.async")])
        await eventually(lambda: _nothing_left(world), "a copy in another queue is dropped too")
        assert (await world.rows.row(id_))["attempts"] == 1


async def test_a_type_without_a_handler_here_goes_back_to_the_relay_uncounted(world: World) -> None:
    await world.declare("w.act.async", "nobody.runs.it")
    async with world.worker():
        (id_,) = await world.enqueue("nobody.runs.it")
        await eventually(lambda: _is_parked(world, id_), "the task waits for the relay")
        row = await world.rows.row(id_)
        assert (row["status"], row["attempts"]) == ("ENQUEUED", 0)


async def test_a_type_that_another_worker_of_the_queue_handles_reaches_it_at_once(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker(WORKER_HANDLERS="dtq_worker.demo") as other, world.worker():
        for _ in range(10):
            # No relay runs here: a task that is parked would stay so.
            (id_,) = await world.enqueue("w.act.async", gives="number")
            (row,) = await world.ended(id_, seconds=3.0)
            assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1)
        handed_on = other.count("dq_deliveries_total", verdict="handed_on")
        assert handed_on >= 3, "the other worker got none of them: this shows nothing"
        assert handed_on <= 10, "a message came back to the worker that had handed it on"


async def test_a_type_that_nobody_handles_is_handed_on_a_bounded_number_of_times(world: World) -> None:
    await world.declare("nobody.runs.it")
    async with world.worker() as running:
        (id_,) = await world.enqueue("nobody.runs.it")
        await eventually(lambda: _is_parked(world, id_), "the task waits for the relay")
        await eventually(lambda: _nothing_left(world), "no message is left")
        assert running.count("dq_deliveries_total", verdict="handed_on") == HANDED_ON_MAX
        pause = await world.rows.sql.fetchval(
            "SELECT extract(epoch FROM publish_at - updated_at) FROM tasks WHERE id = $1", id_
        )
        assert pause == 15


async def test_while_the_broker_blocks_publishers_a_type_without_a_handler_here_is_parked(world: World) -> None:
    await world.declare("nobody.runs.it")
    async with world.worker() as running:
        connection = running.worker.publisher.broker.connection()
        assert isinstance(connection, Connection)
        connection._frames.is_blocked = True
        (id_,) = await world.enqueue("nobody.runs.it")
        await eventually(lambda: _is_parked(world, id_), "the task waits for the relay")
        assert running.count("dq_deliveries_total", verdict="handed_on") == 0


async def test_a_paused_queue_set_hands_out_nothing_and_loses_nothing(world: World) -> None:
    await world.declare("w.act.async")
    async with world.worker():
        await world.rows.sql.execute("UPDATE queue_set SET paused = true")
        (id_,) = await world.enqueue("w.act.async", gives="number")
        await eventually(lambda: _is_parked(world, id_), "the task waits for the relay")
        await world.rows.sql.execute("UPDATE queue_set SET paused = false")
        await world.relay.once()
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"]) == ("SUCCEEDED", 1)


GOOD = '{{"id": "{id}", "type": "w.act.async"}}'
BAD: list[tuple[str, bytes, dict[str, Any], str]] = [
    ("empty", b"", {}, "undecodable"),
    ("not JSON", b"\x00\x01\x02", {}, "undecodable"),
    ("not UTF-8", b'{"id": "\xff\xfe"}', {}, "undecodable"),
    ("null", b"null", {}, "undecodable"),
    ("a list", b"[]", {}, "undecodable"),
    ("a text", b'"x"', {}, "undecodable"),
    ("no id", b'{"type": "w.act.async"}', {}, "undecodable"),
    ("no type", b'{"id": "018f0000-0000-7000-8000-000000000000"}', {}, "undecodable"),
    ("id no uuid", b'{"id": "../../x", "type": "a.b"}', {}, "undecodable"),
    ("id a number", b'{"id": 1, "type": "a.b"}', {}, "undecodable"),
    ("type a number", b'{"id": "018f0000-0000-7000-8000-000000000000", "type": 1}', {}, "undecodable"),
    ("deep", b"[" * 100_000, {}, "undecodable"),
    ("huge", b'{"id": "' + b"x" * 2_000_000, {}, "undecodable"),
    ("unknown id", GOOD.format(id=uuid4()).encode(), {}, "dropped"),
    ("unknown id of another type", GOOD.format(id=uuid4()).replace("w.act", "x.y").encode(), {}, "dropped"),
    ("no content type", b"{}", {"content_type": None}, "undecodable"),
    ("huge headers", b"{}", {"headers": {f"h{n}": "x" * 1000 for n in range(100)}}, "undecodable"),
    ("forged x-death", b"{}", {"headers": {"x-death": [{"count": 2**31, "queue": "x"}]}}, "undecodable"),
    ("no dictionary in x-death", b"{}", {"headers": {"x-death": "x"}}, "undecodable"),
    ("priority", b"{}", {"priority": 255}, "undecodable"),
    ("another encoding", b"{}", {"content_encoding": "gzip"}, "undecodable"),
    ("forged ids", b"{}", {"message_id": "x" * 255, "correlation_id": "y" * 255}, "undecodable"),
]


@pytest.mark.parametrize(("name", "body", "properties", "verdict"), BAD, ids=[case[0] for case in BAD])
async def test_a_bad_message_is_counted_and_dropped_and_the_next_one_runs(
    shared: tuple[World, Running], name: str, body: bytes, properties: dict[str, Any], verdict: str
) -> None:
    world, running = shared
    assert name
    before = running.count("dq_deliveries_total", verdict=verdict)
    await _publish(world, body, **properties)
    await _goes_on(world, running)
    assert running.count("dq_deliveries_total", verdict=verdict) == before + 1


GOOD_ENOUGH: list[tuple[str, dict[str, Any]]] = [
    ("another content type", {"content_type": "text/html"}),
    ("a version and more keys", {"more": {"v": 99, "attempt": -7, "payload": {"forged": True}}}),
    ("another type", {"more": {"type": "nobody.runs.it"}}),
    ("an expiration that is over", {"expiration": "60000"}),
    ("forged x-death", {"headers": {"x-death": [{"count": 99}]}}),
    ("transient", {"delivery_mode": 1}),
]


@pytest.mark.parametrize(("name", "strange"), GOOD_ENOUGH, ids=[case[0] for case in GOOD_ENOUGH])
async def test_only_the_row_decides_whatever_a_message_claims(
    shared: tuple[World, Running], name: str, strange: dict[str, Any]
) -> None:
    world, _ = shared
    assert name
    (id_,) = await world.rows.enqueue(1, type_="w.act.async", payload='{"gives": "number"}')
    properties = {key: value for key, value in strange.items() if key != "more"}
    body = {"id": str(id_), "type": "w.act.async"} | strange.get("more", {})
    await _publish(world, json.dumps(body).encode(), **properties)
    (row,) = await world.ended(id_)
    assert (row["status"], row["attempts"], row["result"]) == ("SUCCEEDED", 1, "7")


@pytest.mark.parametrize("status", ["CANCELLED", "SUCCEEDED", "FAILED"])
async def test_a_message_of_a_task_that_has_ended_changes_nothing(shared: tuple[World, Running], status: str) -> None:
    world, running = shared
    if status == "CANCELLED":
        (id_,) = await world.rows.enqueue(1, type_="w.act.async", payload="{}")
        await world.rows.cancel(id_)
    else:
        (id_,) = (
            await world.enqueue("w.act.async", gives="number")
            if status == "SUCCEEDED"
            else await world.enqueue("w.act.async", raises="plain")
        )
        await world.ended(id_)
    before = dict(await world.rows.row(id_))
    assert before["status"] == status
    await world.send([messages.work(NAMESPACE, "default", id_, "w.act.async")])
    await _goes_on(world, running)
    after = dict(await world.rows.row(id_))
    # A failed task's dead letter may be confirmed meanwhile.
    unchanging = before.keys() - {"dead_letter_at", "dead_lettered_at"}
    assert {key: after[key] for key in unchanging} == {key: before[key] for key in unchanging}


NESTED = b"\x01k\x46\x00\x00\x00\x00"
for _ in range(2_000):
    NESTED = b"\x01kF" + len(NESTED).to_bytes(4, "big") + NESTED

RAW: list[tuple[str, bytes, bytes]] = [
    ("a routing key that is no text", b"\xff\xfe\xfd", b"\x00\x00"),
    ("a content type that is no text", b"key", b"\x80\x00" + b"\x02\xff\xfe"),
    ("a time beyond the calendar", b"key", b"\x00\x40" + b"\x7f" * 8),
    ("a header whose name is no text", b"key", b"\x20\x00" + b"\x00\x00\x00\x03" + b"\x01\xffV"),
    ("headers nested 2000 times", b"key", b"\x20\x00" + len(NESTED).to_bytes(4, "big") + NESTED),
]


@pytest.mark.parametrize(("name", "key", "properties"), RAW, ids=[case[0] for case in RAW])
async def test_a_message_that_the_driver_cannot_read_ends_no_connection(
    shared: tuple[World, Running], name: str, key: bytes, properties: bytes
) -> None:
    world, running = shared
    assert name
    before = running.count("dq_deliveries_total", verdict="undecodable")
    await _publish_raw(world, key, properties)
    await _goes_on(world, running)
    assert running.count("dq_deliveries_total", verdict="undecodable") == before + 1
    assert running.count("dq_broker_reconnects_total", purpose="consume") == 0


async def _goes_on(world: World, running: Running) -> None:
    (id_,) = await world.enqueue("w.act.async", gives="number")
    (row,) = await world.ended(id_)
    assert row["status"] == "SUCCEEDED"
    await eventually(lambda: _nothing_left(world), "nothing is left in the queues")
    assert await running.is_ready()


async def _publish(world: World, body: bytes, **properties: Any) -> None:
    """Publish as a stranger would, past all that dtq does."""
    connection = await aiormq.connect(world.vhost.url)
    channel = await connection.channel()
    known: dict[str, Any] = {"content_type": JSON, "delivery_mode": 2} | properties
    await channel.basic_publish(
        body, exchange="tasks.direct", routing_key="default", properties=Basic.Properties(**known), mandatory=True
    )
    await connection.close()


async def _publish_raw(world: World, key: bytes, properties: bytes) -> None:
    """Publish with a routing key and properties of any bytes, frame by frame: the driver writes none of them."""
    connection = await aiormq.connect(world.vhost.url)
    channel = await connection.channel(publisher_confirms=False)
    await channel.exchange_declare("stranger", exchange_type="fanout")
    await channel.queue_bind("tasks.default", "stranger")
    method = b"\x00\x3c\x00\x28" + b"\x00\x00" + b"\x08stranger" + bytes([len(key)]) + key + b"\x00"
    header = b"\x00\x3c\x00\x00" + (2).to_bytes(8, "big") + properties
    frames = b"".join(
        kind + channel.number.to_bytes(2, "big") + len(part).to_bytes(4, "big") + part + b"\xce"
        for kind, part in ((b"\x01", method), (b"\x02", header), (b"\x03", b"{}"))
    )
    await connection.write_queue.put(aiormq.abc.ChannelFrame(payload=frames, should_close=False))
    await channel.queue_declare("tasks.default", passive=True)  # what was written before it has arrived
    await channel.queue_unbind("tasks.default", "stranger")
    await connection.close()


async def _is_parked(world: World, id_: UUID) -> bool:
    return bool((await world.rows.row(id_))["needs_publish"])


async def _nothing_left(world: World) -> bool:
    return await world.ready() == 0 and await world.ready("tasks.high") == 0


async def _unacknowledged(world: World) -> int:
    path = f"/api/queues/{world.vhost.vhost}/tasks.default"
    found = await asyncio.to_thread(world.vhost.management.call, "GET", path)
    return int(found.get("messages_unacknowledged", -1))

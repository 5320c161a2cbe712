"""`POST /dlq/redrive`: a person sends failed tasks again."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from dtq.broker.admin import ready_counts
from dtq.broker.messages import dead_letter
from dtq.broker.publish_window import Message
from dtq.domain.limits import REDRIVE_MAX
from dtq_db.connections import Database
from dtq_maintenance import maintenance
from tests.api.world import ANY, NAMESPACE, SMALL, Running, problem, serving
from tests.support.addresses import BrokerVhost
from tests.support.waiting import READY_SECONDS, eventually


async def redrive(api: Running, **body: Any) -> dict[str, Any]:
    answer = await api.client.post("/dlq/redrive", json=body)
    assert answer.status_code == 200, answer.text
    done: dict[str, Any] = answer.json()
    assert set(done) == {"dry_run", "matched", "redriven", "ids"}
    return done


async def statuses(api: Running, *ids: UUID) -> list[str]:
    return [(await api.row(id_))["status"] for id_ in ids]


async def test_tasks_are_sent_again_by_id(fresh_api: Running) -> None:
    first, second, other = [await fresh_api.failed() for _ in range(3)]
    done = await redrive(fresh_api, ids=[str(first), str(second)])
    assert done == {"dry_run": False, "matched": 2, "redriven": 2, "ids": sorted([str(first), str(second)])}
    assert await statuses(fresh_api, first, second, other) == ["ENQUEUED", "ENQUEUED", "FAILED"]
    row = await fresh_api.row(first)
    assert (row["attempts"], row["max_attempts"], row["redrives"]) == (1, 6, 1)
    assert (await fresh_api.events(first))[-1] == "REDRIVE"
    assert await fresh_api.metric("dq_redriven_total") == 2
    await fresh_api.becomes_ready(3)
    await fresh_api.api.maintenance.relay.once()
    await fresh_api.becomes_ready(5)


async def test_only_what_failed_is_sent_again(fresh_api: Running) -> None:
    waiting, failed = await fresh_api.enqueued(), await fresh_api.failed()
    done = await redrive(fresh_api, ids=[str(waiting), str(failed), str(uuid4()), str(failed)])
    assert done["ids"] == [str(failed)]
    assert (await redrive(fresh_api, ids=[str(failed)]))["redriven"] == 0
    assert (await fresh_api.events(failed)).count("REDRIVE") == 1


async def test_a_dry_run_tells_and_changes_nothing(fresh_api: Running) -> None:
    ids = [await fresh_api.failed() for _ in range(2)]
    before = await fresh_api.written()
    expected = {"dry_run": True, "matched": 2, "redriven": 0, "ids": sorted(map(str, ids))}
    assert await redrive(fresh_api, all=True, dry_run=True) == expected
    assert await redrive(fresh_api, ids=[*map(str, ids), str(uuid4())], dry_run=True) == expected
    assert await statuses(fresh_api, *ids) == ["FAILED", "FAILED"]
    assert await fresh_api.written() == before
    assert await fresh_api.metric("dq_redriven_total") == 0


async def test_a_filter_takes_what_fits_it(fresh_api: Running) -> None:
    plain, high, small = (
        await fresh_api.failed(),
        await fresh_api.failed(queue="high"),
        await fresh_api.failed(SMALL),
    )
    assert (await redrive(fresh_api, type=SMALL, dry_run=True))["ids"] == [str(small)]
    assert (await redrive(fresh_api, queue="high", dry_run=True))["ids"] == [str(high)]
    assert (await redrive(fresh_api, type=SMALL, queue="high", dry_run=True))["ids"] == []
    assert (await redrive(fresh_api, type="nobody.has.it", dry_run=True))["ids"] == []
    now = datetime.now(UTC)
    for moment, count in ((now - timedelta(hours=1), 0), (now + timedelta(hours=1), 3)):
        done = await redrive(fresh_api, failed_before=moment.isoformat(), dry_run=True)
        assert done["matched"] == count
    assert (await redrive(fresh_api, type=SMALL))["ids"] == [str(small)]
    assert (await redrive(fresh_api, all=True))["ids"] == sorted([str(plain), str(high)])


async def test_a_filter_stops_at_its_limit_and_takes_the_oldest_failures_first(fresh_api: Running) -> None:
    ids = [await fresh_api.failed() for _ in range(3)]
    assert (await redrive(fresh_api, all=True, limit=2))["ids"] == sorted(map(str, ids[:2]))
    assert (await redrive(fresh_api, type=ANY, limit=REDRIVE_MAX))["ids"] == [str(ids[2])]


async def test_a_filter_without_a_limit_stops_at_a_hundred(fresh_api: Running) -> None:
    await fresh_api.sql.execute(
        "INSERT INTO tasks (id, type, queue, status, attempts, payload, failed_at)"
        " SELECT gen_random_uuid(), $1, 'default', 'FAILED', 5, '{}', now() FROM generate_series(1, 101)",
        ANY,
    )
    assert (await redrive(fresh_api, all=True))["redriven"] == 100
    assert (await redrive(fresh_api, all=True))["redriven"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"limit": 10},
        {"dry_run": True},
        {"all": False},
        {"type": None, "queue": None, "failed_before": None, "ids": None},
        {"all": True, "type": ANY},
        {"all": True, "ids": [str(uuid4())]},
    ],
)
async def test_everything_is_sent_again_only_if_it_is_asked_for(fresh_api: Running, body: dict[str, Any]) -> None:
    failed = await fresh_api.failed()
    answer = await fresh_api.client.post("/dlq/redrive", json=body)
    detail = problem(answer, 400, "InvalidBody")["detail"]
    assert ("all, ids and a filter exclude each other" if body.get("all") else '"all": true') in detail
    assert await statuses(fresh_api, failed) == ["FAILED"]
    assert (await redrive(fresh_api, all=True))["ids"] == [str(failed)]


async def test_a_task_is_sent_again_with_the_budget_that_it_was_enqueued_with(fresh_api: Running) -> None:
    id_ = await fresh_api.failed(max_attempts=2)
    await redrive(fresh_api, ids=[str(id_)])
    row = await fresh_api.row(id_)
    assert (row["attempts"], row["max_attempts"]) == (1, 3)


async def test_the_dead_letter_of_what_was_sent_again_is_dropped(fresh_api: Running) -> None:
    gone, kept = await fresh_api.failed(), await fresh_api.failed()
    copies = [dead_letter(NAMESPACE, "default", id_, ANY) for id_ in (gone, kept)]
    stranger = Message(exchange=copies[0].exchange, routing_key="default", body=b"not ours")
    assert await fresh_api.api.maintenance.publisher.publish([*copies, stranger]) == [None, None, None]
    await fresh_api.becomes_ready(3, "dlq")
    await redrive(fresh_api, ids=[str(gone)])
    await fresh_api.api.maintenance.dead_letters.once()
    await fresh_api.becomes_ready(2, "dlq")


async def test_what_is_sent_again_waits_for_the_pause_of_no_loop(
    declared_dsn: str, broker_vhost: BrokerVhost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pause in ("DROP_SECONDS", "RELAY_SECONDS"):
        monkeypatch.setattr(maintenance, pause, 10 * READY_SECONDS)
    async with serving(declared_dsn, broker_vhost) as (api, host, port), Database(declared_dsn, name="test") as rows:
        publisher = api.maintenance.publisher

        async def holds(queue: str, count: int) -> bool:
            return publisher.broker.is_up and await ready_counts(publisher.broker, [queue]) == {queue: count}

        await eventually(lambda: holds(f"{NAMESPACE}.dlq", 0), "the topology is declared")
        ((id_,),) = await rows.fetch(
            "INSERT INTO tasks (id, type, queue, status, attempts, payload, failed_at)"
            " VALUES (gen_random_uuid(), $1, 'default', 'FAILED', 5, '{}', now()) RETURNING id",
            ANY,
        )
        assert await publisher.publish([dead_letter(NAMESPACE, "default", id_, ANY)]) == [None]
        await eventually(lambda: holds(f"{NAMESPACE}.dlq", 1), "there is a dead letter")
        async with httpx2.AsyncClient(base_url=f"http://{host}:{port}") as client:
            assert (await client.post("/dlq/redrive", json={"ids": [str(id_)]})).json()["redriven"] == 1
        await eventually(lambda: holds(f"{NAMESPACE}.dlq", 0), "its copy is dropped")
        await eventually(lambda: holds(f"{NAMESPACE}.default", 1), "it is published")

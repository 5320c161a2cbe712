"""`GET /queues/{queue}/scaling`: how many workers a queue wants, and never a 0 for "unknown"."""

from datetime import UTC, datetime

from tests.api.world import NAMESPACE, Running, declare, problem
from tests.support.waiting import eventually


async def test_the_hint_counts_what_waits_and_what_runs(fresh_api: Running) -> None:
    for _ in range(45):
        await fresh_api.enqueued()
    await fresh_api.sql.execute("SELECT dtq_register(gen_random_uuid(), 'w', ARRAY['default'], ARRAY['x'], 4, 60)")
    await fresh_api.sql.execute("""UPDATE workers SET running = '{"default/default": 3}'""")

    async def counts_both() -> bool:
        since = datetime.now(UTC)
        answer = await fresh_api.client.get("/queues/default/scaling")
        assert answer.status_code == 200
        hint = answer.json()
        assert since <= datetime.fromisoformat(hint.pop("asOf")) <= datetime.now(UTC)
        return bool(
            hint
            == {
                "queue_set": "default",
                "queue": "default",
                "backlog": 48,
                "ready": 45,
                "running": 3,
                "desiredReplicas": 3,
            }
        )

    await eventually(counts_both, "the hint counts what waits and what runs")


async def test_an_idle_queue_wants_its_fewest_workers(fresh_api: Running) -> None:
    hint = (await fresh_api.client.get("/queues/high/scaling", params={"queue_set": "default"})).json()
    assert (hint["backlog"], hint["desiredReplicas"]) == (0, 0)


async def test_a_queue_that_may_shrink_to_nothing_wants_none_when_it_is_known_to_be_idle(fresh_api: Running) -> None:
    queue = {"name": "default", "scaling": {"minReplicas": 0, "maxReplicas": 5}}
    await declare(fresh_api.api.tasks._database.dsn, {}, queues=[queue])
    await fresh_api.api.catalog.refresh()
    assert (await fresh_api.client.get("/queues/default/scaling")).json()["desiredReplicas"] == 0


async def test_a_queue_that_is_not_declared_is_not_found(api: Running) -> None:
    for path in ("/queues/nope/scaling", "/queues/default/scaling?queue_set=nope", "/queues/%00/scaling"):
        problem(await api.client.get(path), 404, "NotFound")


async def test_what_a_worker_holds_unclaimed_waits_all_the_same(fresh_api: Running) -> None:
    """Twenty tasks behind one slot: the first runs, and the message of the others may be anywhere."""
    ids = [await fresh_api.enqueued() for _ in range(20)]
    fresh_api.broker.management.call("DELETE", f"/api/queues/{fresh_api.broker.vhost}/{NAMESPACE}.default/contents")
    worker = await fresh_api.run(ids[0])
    await fresh_api.sql.execute("""UPDATE workers SET running = '{"default/default": 1}' WHERE id = $1""", worker)
    hint = (await fresh_api.client.get("/queues/default/scaling")).json()
    assert (hint["backlog"], hint["ready"], hint["running"]) == (20, 19, 1)


async def test_without_a_broker_the_hint_is_known(fresh_api: Running) -> None:
    await fresh_api.enqueued()
    fresh_api.api.maintenance.publisher.broker.invalidate("a test says so")
    assert (await fresh_api.client.get("/queues/default/scaling")).json()["backlog"] == 1


async def test_without_postgres_the_hint_is_unknown_and_not_0(fresh_api: Running) -> None:
    async with fresh_api.sql.transaction():
        await fresh_api.sql.execute("LOCK TABLE workers IN ACCESS EXCLUSIVE MODE")
        answer = await fresh_api.client.get("/queues/default/scaling")
    problem(answer, 503, "Unavailable")
    assert int(answer.headers["retry-after"]) > 0

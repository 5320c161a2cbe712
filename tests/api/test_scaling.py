"""`GET /queues/{queue}/scaling`: how many workers a queue wants, and never a 0 for "unknown"."""

from datetime import UTC, datetime

from tests.api.world import NAMESPACE, Running, declare, eventually, problem


async def test_the_hint_counts_what_waits_and_what_runs(fresh_api: Running) -> None:
    for _ in range(45):
        await fresh_api.enqueued()
    await fresh_api.becomes_ready(45)
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
    assert (hint["backlog"], hint["desiredReplicas"]) == (0, 1)


async def test_a_queue_that_may_shrink_to_nothing_wants_none_when_it_is_known_to_be_idle(fresh_api: Running) -> None:
    queue = {"name": "default", "scaling": {"minReplicas": 0, "maxReplicas": 5}}
    await declare(fresh_api.api.tasks._database.dsn, {}, queues=[queue])
    await fresh_api.api.catalog.refresh()
    assert (await fresh_api.client.get("/queues/default/scaling")).json()["desiredReplicas"] == 0


async def test_a_queue_that_is_not_declared_is_not_found(api: Running) -> None:
    for path in ("/queues/nope/scaling", "/queues/default/scaling?queue_set=nope", "/queues/%00/scaling"):
        problem(await api.client.get(path), 404, "NotFound")


async def test_a_queue_that_is_missing_in_the_broker_is_unknown_and_not_empty(fresh_api: Running) -> None:
    vhost = fresh_api.broker.vhost
    fresh_api.broker.management.call("DELETE", f"/api/queues/{vhost}/{NAMESPACE}.default")

    async def unknown() -> bool:
        return (await fresh_api.client.get("/queues/default/scaling")).status_code == 503

    await eventually(unknown, "the queue is gone")
    answer = await fresh_api.client.get("/queues/default/scaling")
    problem(answer, 503, "Unavailable")
    assert int(answer.headers["retry-after"]) > 0
    assert (await fresh_api.client.get("/queues/high/scaling")).status_code == 200


async def test_without_a_broker_the_hint_is_unknown(fresh_api: Running) -> None:
    fresh_api.api.publisher.link.invalidate("a test says so")
    problem(await fresh_api.client.get("/queues/default/scaling"), 503, "Unavailable")

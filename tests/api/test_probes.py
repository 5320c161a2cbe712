"""What clusters, monitors and people ask: health, readiness, liveness, metrics, the front page."""

import re

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.world import ANY, NAMESPACE, SMALL, STRICT, Running, problem
from tests.support.waiting import eventually

OWN_NAMES = re.compile(r"dq_[a-z_]+")


async def test_the_front_page_names_the_service_and_its_routes(api: Running) -> None:
    answer = await api.client.get("/")
    assert answer.json()["service"] == "dtq"
    for route in ("POST /enqueue", "GET /tasks/{id}", "GET /openapi.json", "GET /healthz", "GET /metrics"):
        assert route in answer.json().values()


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/livez"])
async def test_all_is_well_when_it_is(api: Running, path: str) -> None:
    answer = await api.client.get(path)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def probes(api: Running) -> dict[str, httpx2.Response]:
    return {path: await api.client.get(path) for path in ("/healthz", "/readyz", "/livez")}


async def test_without_a_broker_the_api_is_unhealthy_yet_ready_and_alive(fresh_api: Running) -> None:
    fresh_api.api.maintenance.publisher.broker.invalidate("a test says so")
    answers = await probes(fresh_api)
    assert [answer.status_code for answer in answers.values()] == [503, 200, 200]
    assert answers["/healthz"].json()["status"] == "degraded"
    assert set(answers["/healthz"].json()) == {"status", "rmq"}


async def test_a_missing_queue_is_named_and_health_comes_back_with_it(fresh_api: Running) -> None:
    vhost = fresh_api.broker.vhost
    fresh_api.broker.management.call("DELETE", f"/api/queues/{vhost}/{NAMESPACE}.low")

    async def unhealthy() -> bool:
        return (await fresh_api.client.get("/healthz")).status_code == 503

    await eventually(unhealthy, "/healthz notices")
    body = (await fresh_api.client.get("/healthz")).json()
    assert body == {"status": "degraded", "queue_set/default": f"queue missing: {NAMESPACE}.low"}
    await fresh_api.api.maintenance.watch.once()

    async def healthy() -> bool:
        return (await fresh_api.client.get("/healthz")).status_code == 200

    await eventually(healthy, "/healthz recovers")
    assert await fresh_api.metric("dq_topology_repairs_total") >= 1


async def test_a_queue_with_other_arguments_is_named(fresh_api: Running) -> None:
    vhost, name = fresh_api.broker.vhost, f"{NAMESPACE}.low"
    fresh_api.broker.management.call("DELETE", f"/api/queues/{vhost}/{name}")
    other = {"durable": True, "arguments": {"x-queue-type": "classic", "x-max-length": 7}}
    fresh_api.broker.management.call("PUT", f"/api/queues/{vhost}/{name}", other)
    await fresh_api.api.maintenance.watch.once()

    async def named() -> bool:
        return (await fresh_api.client.get("/healthz")).text == (
            f'{{"status":"degraded","queue_set/default":"exists with other arguments: {name}"}}'
        )

    await eventually(named, "/healthz names the queue")


async def test_health_is_asked_of_the_services_once_a_second_and_not_once_a_probe(
    fresh_api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def healthy() -> bool:
        return (await fresh_api.client.get("/healthz")).status_code == 200

    await eventually(healthy, "all is well")
    monkeypatch.setattr("dtq_maintenance.health.CACHE_SECONDS", 60.0)
    fresh_api.api.maintenance.publisher.broker.invalidate("a test says so")
    assert (await fresh_api.client.get("/healthz")).status_code == 200


async def test_metrics_have_the_names_and_labels_of_the_origin(fresh_api: Running) -> None:
    await fresh_api.enqueue(ANY, queue="high")
    await fresh_api.enqueue(STRICT, {"to": "nobody"})
    answer = await fresh_api.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "# TYPE dq_enqueue_total counter" in answer.text
    assert "# TYPE dq_enqueue_latency_seconds histogram" in answer.text
    assert await fresh_api.metric("dq_enqueue_total", type=ANY, queue="high", status="ok") == 1
    assert await fresh_api.metric("dq_enqueue_total", type=STRICT, queue="unknown", status="error") == 1
    assert await fresh_api.metric("dq_enqueue_latency_seconds_count", type=ANY, queue="high") == 1
    assert await fresh_api.metric("dq_broker_connected", purpose="publish") == 1
    for family in text_string_to_metric_families(answer.text):
        assert OWN_NAMES.fullmatch(family.name), "only names of dtq: the registry is its own"
        assert family.documentation.endswith(".")


async def test_strangers_cannot_invent_labels(fresh_api: Running) -> None:
    async def strangers(count: int, of: str) -> int:
        for number in range(count):
            await fresh_api.enqueue(f"stranger.{of}{number}")
            await fresh_api.enqueue(SMALL, queue=f"stranger-{of}{number}")
            await fresh_api.client.get(f"/tasks/stranger-{of}{number}")
            await fresh_api.client.get(f"/stranger-{of}{number}")
        return await _series(fresh_api)

    await strangers(1, "a")  # whatever series there may be are there now
    assert await strangers(1, "b") == await strangers(50, "c")
    assert "stranger" not in (await fresh_api.client.get("/metrics")).text
    assert await fresh_api.metric("dq_enqueue_total", type="unknown", queue="unknown", status="error") == 52


async def _series(api: Running) -> int:
    text = (await api.client.get("/metrics")).text
    return sum(len(family.samples) for family in text_string_to_metric_families(text))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *((method, "/enqueue") for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")),
        *((method, "/tasks") for method in ("POST", "DELETE", "OPTIONS")),
        ("DELETE", "/tasks/00000000-0000-7000-8000-000000000000"),
        ("GET", "/tasks/00000000-0000-7000-8000-000000000000/cancel"),
        ("POST", "/tasks/00000000-0000-7000-8000-000000000000/events"),
        ("GET", "/dlq/redrive"),
        ("POST", "/healthz"),
        ("BREW", "/enqueue"),
    ],
)
async def test_a_method_that_a_route_does_not_take_is_refused(api: Running, method: str, path: str) -> None:
    answer = await api.client.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (405, "application/problem+json")
    assert answer.headers["allow"]
    if method != "HEAD":  # an answer to it has no body
        problem(answer, 405, "MethodNotAllowed")


@pytest.mark.parametrize("path", ["/nope", "/enqueue/", "/tasks/", "/tasks/a/b/c", "/ENQUEUE", "/v1/enqueue"])
async def test_a_path_that_is_no_route_is_not_found_and_not_redirected(api: Running, path: str) -> None:
    for method in ("GET", "POST"):
        body = problem(await api.client.request(method, path), 404, "NotFound")
        assert "openapi.json" in body["detail"]


async def test_head_answers_as_get_without_a_body(api: Running) -> None:
    for path in ("/", "/healthz", "/readyz", "/livez", "/metrics", "/openapi.json", "/tasks"):
        answer = await api.client.head(path)
        assert (answer.status_code, path) == (200, path)

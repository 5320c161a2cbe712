"""The whole mission, step by step, in a real cluster: each test needs those before it.

What it sees is written to `docs/e2e-report.md` by the last step; what the pods said when a step failed is in `.e2e`.
"""

import json
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from hack.cluster.report import ClusterError
from tests.e2e import report, watching
from tests.e2e.kube import Kube, Object
from tests.e2e.release import BURST, BURST_MAX, CLIENT, FAILING, NAME, NAMESPACE, ROOT, STEADY, queue_set, task_type
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(1200)

PARTS = ("api", "operator", "worker-default")
"""What is always there: each has pods, and a Deployment."""
READY_SECONDS = 180
DONE_SECONDS = 240.0
ZERO_SECONDS = 180.0
DRIFT_SECONDS = 90.0  # promised: 60 s after it is noticed
BURST_TASKS, BURST_TASK_SECONDS = 120, 3.0
LOAD_TASKS = 40


def pods(kube: Kube, component: str) -> list[Object]:
    """The running pods of a component."""
    found = kube.items("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def kill(kube: Kube, component: str) -> str:
    """End a pod of a component as a lost node would: nothing of it is told to drain."""
    name = str(pods(kube, component)[0]["metadata"]["name"])
    kube.run("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force", timeout_seconds=60)
    return name


def restarts(kube: Kube) -> dict[str, int]:
    """How often each container of the release was started again."""
    found = kube.items("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/instance={NAME}")
    return {
        pod["metadata"]["name"]: sum(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
        for pod in found
    }


def names(kube: Kube) -> set[str]:
    """The names of the running pods that are always there."""
    return {pod["metadata"]["name"] for part in PARTS for pod in pods(kube, part)}


def rolled_out(kube: Kube, part: str, kind: str = "deployment") -> None:
    """Wait until a Deployment, or another workload, is as it should be."""
    name = f"{kind}/{NAME}-{part}"
    kube.run("rollout", "status", name, "-n", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS)


def test_the_chart_is_installed_where_only_restricted_pods_are_admitted(world: World) -> None:
    with world.step("helm install"):
        world.release.prepare()
        world.release.install()
    labels = world.kube.get("namespace", NAMESPACE)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_task_types_and_queue_sets_become_ready(world: World) -> None:
    with world.step("kubectl apply -f examples/, until all are Ready"):
        world.kube.run("apply", "-n", NAMESPACE, "-f", str(ROOT / "examples"))
        world.kube.apply(
            queue_set(), task_type(BURST, "default"), task_type(STEADY, "high"), task_type(FAILING, "high", attempts=2)
        )
        world.kube.wait(NAMESPACE, "condition=Ready", "tt,qs", "--all")
    with world.step("after that, until every pod is ready"):
        for part in (*PARTS, "worker-burst"):
            rolled_out(world.kube, part)
    assert set(restarts(world.kube).values()) == {0}


def test_a_pod_enqueues_by_the_services_name_with_its_token_and_the_task_succeeds(world: World) -> None:
    with world.step("first task from a pod, until it has succeeded"):
        world.release.start_client()
        world.recorder.order("e2e.steady.v1", {"seconds": 0.1})
        world.finished("the first task", seconds=DONE_SECONDS)
    (call,) = [call for call in world.recorder.calls if call.status == 201]
    dsn = world.release.secret(f"{NAME}-demo-postgres")["dsn"]
    world.kube.until(
        "the row says so",
        lambda: world.release.psql(dsn, f"SELECT status FROM tasks WHERE id = '{call.task_id}'") == ["SUCCEEDED"],
        namespace=NAMESPACE,
        seconds=30,
    )


@pytest.mark.parametrize(
    ("account", "options", "status"),
    [
        (None, [], 401),
        (CLIENT, ["--audience=another"], 401),
        ("default", ["--audience=dtq"], 403),
    ],
    ids=["no token", "a token for another audience", "an account that no grant names"],
)
def test_who_may_not_enqueue_is_told_so(world: World, account: str | None, options: list[str], status: int) -> None:
    token = world.kube.run("create", "token", account, "-n", NAMESPACE, *options).strip() if account else None
    assert world.ask_api("/enqueue", {"type": STEADY, "payload": {}}, token=token) == status


def test_keda_scales_a_pool_from_zero_to_its_most_and_back_and_nothing_is_lost(world: World) -> None:
    kube = world.kube
    with watching.replicas(kube, NAMESPACE, f"{NAME}-worker-burst") as watch:
        kube.until(
            "no worker waits for work", lambda: watch.now().wanted == 0, namespace=NAMESPACE, seconds=ZERO_SECONDS
        )
        with world.step(
            f"burst of {BURST_TASKS} tasks of {BURST_TASK_SECONDS:g} s, 0 workers, until all have succeeded"
        ):
            for _ in range(BURST_TASKS):
                world.recorder.order(BURST, {"seconds": BURST_TASK_SECONDS})
            world.finished("the burst", seconds=DONE_SECONDS)
        with world.step("after the burst, until no worker is left"):
            kube.until(
                "the workers are gone",
                lambda: (watch.now().wanted, watch.now().ready) == (0, 0),
                namespace=NAMESPACE,
                seconds=ZERO_SECONDS,
            )
        world.replicas = list(watch.seen)
    assert watch.most_wanted == BURST_MAX
    assert watch.most_ready > 1  # where others need the machine too, the burst may be over before the last is ready


def test_prometheus_scrapes_every_process_through_the_charts_monitors(world: World) -> None:
    def scraped() -> bool:
        wanted = names(world.kube)
        up = {series["metric"]["pod"] for series in world.kube.query(f'up{{namespace="{NAMESPACE}"}} == 1')}
        return bool(wanted) and wanted <= up

    world.kube.until("each pod is scraped", scraped, namespace="monitoring", seconds=READY_SECONDS)


def test_every_rule_loads_and_is_evaluated_without_error(world: World) -> None:
    def evaluated() -> bool:
        groups = world.kube.prometheus("rules")["groups"]
        world.rules = [rule for group in groups for rule in group["rules"]]
        return bool(world.rules) and all(rule["health"] != "unknown" for rule in world.rules)

    world.kube.until("the rules are evaluated", evaluated, namespace="monitoring", seconds=READY_SECONDS)
    assert [(rule["name"], rule["lastError"]) for rule in world.rules if rule["health"] != "ok"] == []


def test_a_queue_that_is_deleted_by_hand_comes_back(world: World) -> None:
    broker = f"{NAME}-demo-rabbitmq-0"
    world.kube.run(
        "exec", "-n", NAMESPACE, broker, "--", "rabbitmqctl", "delete_queue", "tasks.high", timeout_seconds=90
    )
    with world.step("queue deleted by hand, until it is back"):
        world.kube.until(
            "the queue is back",
            lambda: "tasks.high" in world.queues(),
            namespace=NAMESPACE,
            seconds=DRIFT_SECONDS,
        )
    world.load(LOAD_TASKS)
    world.finished("what follows", seconds=DONE_SECONDS)


def test_an_upgrade_under_load_loses_nothing(world: World) -> None:
    with world.step("helm upgrade under load: every pod is replaced"), world.under_load(), world.fault("upgrade"):
        before = names(world.kube)
        world.release.upgrade(logLevel="debug")
    assert before.isdisjoint(names(world.kube))


def test_a_rollback_under_load_loses_nothing(world: World) -> None:
    with world.step("helm rollback under load"), world.under_load(), world.fault("rollback"):
        world.release.helm("rollback", NAME, "--wait", "--timeout", "6m")
    for part in PARTS:
        rolled_out(world.kube, part)


@pytest.mark.parametrize("component", PARTS)
def test_a_pod_that_is_killed_under_load_loses_nothing(world: World, component: str) -> None:
    what = f"a pod of {component} is killed under load, until all is ready"
    with world.step(what), world.under_load(), world.fault(f"{component}-killed"):
        kill(world.kube, component)
        rolled_out(world.kube, component)


def test_a_broker_that_loses_its_pod_and_all_its_messages_under_load_loses_no_task(world: World) -> None:
    what = "the broker's pod and its data are gone under load, until all is ready"
    with world.step(what), world.under_load(), world.fault("broker-wiped"):
        kill(world.kube, "demo-rabbitmq")
        rolled_out(world.kube, "demo-rabbitmq", "statefulset")
        for part in PARTS:
            rolled_out(world.kube, part)


@pytest.mark.parametrize("backend", ["database", "broker"])
def test_credentials_rotate_without_a_restart(world: World, backend: str) -> None:
    rotate = {"database": world.rotate_database_password, "broker": world.rotate_broker_password}[backend]
    before = restarts(world.kube)
    what = f"the {backend}'s password is changed under load"
    with world.step(what), world.under_load(), world.fault(f"{backend}-rotated"):
        rotate()
        world.kube.until(
            "the API is well",
            lambda: world.ask_api("/healthz") == HTTPStatus.OK,
            namespace=NAMESPACE,
            seconds=READY_SECONDS,
        )
    assert {pod: count for pod, count in restarts(world.kube).items() if count != before.get(pod, 0)} == {}


def test_a_task_that_fails_for_good_is_a_dead_letter(world: World) -> None:
    with world.step("a task that fails twice, until it is a dead letter"):
        world.order_failing()
        world.kube.until(
            "it is a dead letter", lambda: len(world.dead_letters()) == 1, namespace=NAMESPACE, seconds=120
        )


def test_a_row_that_is_edited_by_hand_is_mended(world: World) -> None:
    dsn = world.release.secret(f"{NAME}-demo-postgres")["dsn"]
    world.release.psql(dsn, f"UPDATE task_type SET default_max_attempts = 3 WHERE type = '{STEADY}'")
    asked = f"SELECT default_max_attempts FROM task_type WHERE type = '{STEADY}'"
    with world.step("row edited by hand, until it is mended"):
        world.kube.until(
            "the row is mended",
            lambda: world.release.psql(dsn, asked) == ["20"],
            namespace=NAMESPACE,
            seconds=DRIFT_SECONDS,
        )


def test_every_query_of_the_dashboards_gives_data(world: World) -> None:
    maps = world.kube.items("configmaps", "-n", NAMESPACE, "-l", "grafana_dashboard=1")
    queries = sorted({query for one in maps for text in one["data"].values() for query in dashboard_queries(text)})
    assert queries
    empty: list[str] = []

    def answered() -> bool:
        empty[:] = [query for query in queries if not world.kube.query(query)]
        return not empty

    try:
        world.kube.until("every query gives data", answered, namespace="monitoring", seconds=READY_SECONDS)
    except ClusterError as error:
        raise AssertionError(f"no data: {empty}") from error
    world.dashboard_queries = len(queries)


def dashboard_queries(text: str) -> Iterator[str]:
    """The PromQL of a dashboard's panels, its variables replaced by what matches everything."""

    def walk(node: object) -> Iterator[str]:
        match node:
            case {"expr": str(expression)}:
                yield expression
            case dict():
                for child in node.values():
                    yield from walk(child)
            case list():
                for child in node:
                    yield from walk(child)

    for expression in walk(json.loads(text)):
        filled = expression
        for name, value in (("$__rate_interval", "1m"), ("$__interval", "30s"), ("$__range", "30m")):
            filled = filled.replace(name, value)
        yield filled.replace("$namespace", NAMESPACE)


def test_nothing_was_lost(world: World) -> None:
    with world.step("the last tasks end; the checker judges the history"):
        world.finished("everything", seconds=DONE_SECONDS)
        world.kube.until("every row is at its end", lambda: world.open_rows() == 0, namespace=NAMESPACE, seconds=60)
        world.take_rows()
        verdict = world.judge()
    assert verdict.counts.lost == 0, verdict
    assert verdict.is_valid, verdict
    assert verdict.counts.acknowledged == world.recorder.ordered


def test_uninstalled_in_the_documented_order_nothing_is_stuck_and_the_definitions_stay(world: World) -> None:
    kube = world.kube
    with world.step("kubectl delete tt,qs --all; helm uninstall, until nothing is left"):
        kube.run(
            "delete", "tt,qs", "--all", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS
        )
        world.release.helm("uninstall", NAME, "--wait", "--timeout", "3m")
        kube.run("delete", "namespace", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS)
    names = {one["metadata"]["name"] for one in kube.items("crd")}
    assert {"tasktypes.dtq.dev", "queuesets.dtq.dev"} <= names
    assert kube.items("tt,qs", "--all-namespaces") == []


def test_the_report_is_written(world: World) -> None:
    report.write(world)

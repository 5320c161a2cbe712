"""The whole mission, step by step, in a real cluster: each test needs those before it.

What it sees is written to `docs/e2e-report.md` by the last step; what the pods said when a step failed is in `.e2e`.
"""

import json
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from dtq.domain.decisions import CRASHES_MAX
from hack.lib.errors import HackError
from tests.e2e import report, watching
from tests.e2e.kube import Kube
from tests.e2e.release import (
    BOMB,
    BURST,
    BURST_MAX,
    CLIENT,
    FAILING,
    FRAGILE_MEMORY,
    INNOCENT,
    LATE,
    LEFT,
    NAME,
    NAMESPACE,
    RIGHT,
    ROOT,
    SHARED_MAX,
    SLOW,
    SLOW_MAX,
    STEADY,
    TYPES,
    queue_set,
    queue_set_named,
    task_type,
)
from tests.e2e.rest import SWEEPS, Rest
from tests.e2e.workloads import PARTS, READY_SECONDS, condition, kill, names, restarts, rolled_out
from tests.e2e.world import World

pytestmark = pytest.mark.timeout(1200)

DONE_SECONDS = 240.0
ZERO_SECONDS = 180.0
DRIFT_SECONDS = 90.0  # promised: 60 s after it is noticed
BURST_TASKS, BURST_TASK_SECONDS = 120, 3.0
LOAD_TASKS = 40
SLOW_TASKS, SLOW_TASK_SECONDS = 20, 30.0
INNOCENTS, INNOCENT_SECONDS = 6, 8.0
SHARED_TASKS, SHARED_TASK_SECONDS = 160, 1.0
LATE_TASK_SECONDS = 1.0
FOLLOW_SECONDS = 20.0  # promised: consumers follow within 10 s
REST_SECONDS = 180.0


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
            queue_set(),
            task_type(FAILING, "high", attempts=2),
            task_type(BOMB, "fragile", attempts=5),
            *(task_type(name, queue) for name, queue in TYPES.items()),
        )
        world.kube.wait(NAMESPACE, "condition=Ready", "tt,qs", "--all")
    with world.step("after that, until every pod is ready"):
        for part in (*PARTS, "worker-burst", "worker-shared", "worker-fragile"):
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
            world.order(BURST, BURST_TASKS, seconds=BURST_TASK_SECONDS)
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


def test_keda_sees_all_that_waits_behind_one_slot(world: World) -> None:
    kube, name = world.kube, f"{NAME}-worker-slow"
    one_slot_seconds = SLOW_TASKS * SLOW_TASK_SECONDS
    what = f"{SLOW_TASKS} tasks of {SLOW_TASK_SECONDS:g} s behind one slot, until all have succeeded"
    with watching.replicas(kube, NAMESPACE, name) as watch, world.step(what):
        kube.until(
            "no worker waits for work", lambda: watch.now().wanted == 0, namespace=NAMESPACE, seconds=ZERO_SECONDS
        )
        begun = time.monotonic()
        world.order(SLOW, SLOW_TASKS, seconds=SLOW_TASK_SECONDS)
        kube.until(
            "one of them runs",
            lambda: [status for (status,) in world.rows("status", SLOW)].count("RUNNING") == 1,
            namespace=NAMESPACE,
            seconds=DONE_SECONDS,
        )
        # A worker tells what it runs when it renews its lease: a task that was claimed just now is in no number yet.
        kube.until(
            "the hint has them all",
            lambda: [world.hint("slow")[name] for name in ("backlog", "desiredReplicas")] == [SLOW_TASKS] * 2,
            namespace=NAMESPACE,
            seconds=SLOW_TASK_SECONDS,
        )
        kube.until(
            "the autoscaler's metric says so too",
            lambda: external_metric(kube, name) == SLOW_TASKS,
            namespace=NAMESPACE,
            seconds=SLOW_TASK_SECONDS,
        )
        world.finished("what waited", seconds=DONE_SECONDS)
    assert watch.most_wanted == SLOW_MAX
    assert time.monotonic() - begun < one_slot_seconds / 2


def external_metric(kube: Kube, scaled_object: str) -> int:
    """What the external metrics API, which the autoscaler asks, says of a ScaledObject's one trigger."""
    (name,) = kube.get("scaledobject", scaled_object, "-n", NAMESPACE)["status"]["externalMetricNames"]
    selector = f"labelSelector=scaledobject.keda.sh%2Fname%3D{scaled_object}"
    path = f"/apis/external.metrics.k8s.io/v1beta1/namespaces/{NAMESPACE}/{name}?{selector}"
    (item,) = json.loads(kube.run("get", "--raw", path))["items"]
    return int(item["value"])


def test_two_queues_of_one_target_give_it_one_number(world: World) -> None:
    """One of them is idle at first, and would have the fewest replicas on its own."""
    kube = world.kube
    with watching.replicas(kube, NAMESPACE, f"{NAME}-worker-shared") as watch, world.step("two queues of one target"):
        world.order(LEFT, SHARED_TASKS, seconds=SHARED_TASK_SECONDS)
        kube.until("it has its most", lambda: watch.now().ready == SHARED_MAX, namespace=NAMESPACE, seconds=90)
        world.order(RIGHT, SHARED_TASKS // 4, seconds=SHARED_TASK_SECONDS)
        world.finished("the work of both", seconds=DONE_SECONDS)
        kube.until("it has its fewest", lambda: watch.now().wanted == 1, namespace=NAMESPACE, seconds=ZERO_SECONDS)
    top = watch.turns.index(SHARED_MAX)
    assert watch.turns == sorted(watch.turns[:top]) + sorted(watch.turns[top:], reverse=True), "it went up and down"
    assert condition(kube, "qs/default", "ScalingActive")["reason"] == "OperatorScaling"


def test_a_queue_is_added_under_load_and_one_with_waiting_tasks_is_removed(world: World) -> None:
    kube = world.kube
    with world.under_load():
        with world.step("a queue is added under load, until a first task of it has succeeded"):
            kube.apply(queue_set("late"), task_type(LATE, "late"))
            kube.wait(NAMESPACE, "condition=Ready", "qs/default", f"tt/{LATE}")
            world.order(LATE, 1, seconds=0.1)
            kube.until(
                "it has succeeded",
                lambda: world.rows("status", LATE) == [["SUCCEEDED"]],
                namespace=NAMESPACE,
                seconds=FOLLOW_SECONDS,
            )
        world.order(LATE, LOAD_TASKS, seconds=LATE_TASK_SECONDS)
        kube.until("they wait", lambda: len(world.rows("id", LATE)) > LOAD_TASKS, namespace=NAMESPACE, seconds=60)
        with world.step("its type moves, and the queue is removed with the tasks that wait in it"):
            kube.apply(task_type(LATE, "high"))
            kube.wait(NAMESPACE, "condition=Ready", f"tt/{LATE}")
            kube.apply(queue_set(onRemoval={"policy": "MoveTo", "queue": "high"}))
            kube.wait(NAMESPACE, "condition=Ready", "qs/default")
            kube.until(
                "they have succeeded",
                lambda: {status for (status,) in world.rows("status", LATE)} == {"SUCCEEDED"},
                namespace=NAMESPACE,
                seconds=DONE_SECONDS,
            )
    assert {queue for (queue,) in world.rows("queue", LATE)} == {"late", "high"}, "none was moved"


def test_a_set_that_the_broker_refuses_hurts_no_other(world: World) -> None:
    kube, before = world.kube, restarts(world.kube)
    walled = queue_set_named("walled", namespace="walled", queues=[{"name": "default"}], deletionPolicy="DeleteIfEmpty")
    with world.under_load():
        world.restrict_broker(r"^tasks\..*")
        with world.step("a queue set that the broker refuses, until its status says so"):
            kube.apply(walled)
            kube.wait(NAMESPACE, "condition=Stalled", "qs/walled")
        told = condition(kube, "qs/walled", "TopologyDeclared")
        assert (told["status"], told["reason"]) == ("False", "AccessRefused")
        assert "walled" in told["message"]
        for part in PARTS:
            kube.wait(NAMESPACE, "condition=Available", f"deployment/{NAME}-{part}", seconds=1)
        assert condition(kube, "qs/default", "Ready")["status"] == "True"
        world.load(LOAD_TASKS)
        world.restrict_broker(".*")
        with world.step("after the right is given, until it is Ready"):
            kube.wait(NAMESPACE, "condition=Ready", "qs/walled")
        kube.run("delete", "qs/walled", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS)
    assert restarts(kube) == before


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


def test_a_task_that_exhausts_memory_is_charged_alone(world: World) -> None:
    what = f"{INNOCENTS} innocents and a memory bomb in a pod of {FRAGILE_MEMORY}, until it has failed for good"
    with world.step(what):
        world.order(INNOCENT, INNOCENTS, seconds=INNOCENT_SECONDS)
        world.kube.until(
            "all innocents run",
            lambda: [status for (status,) in world.rows("status", INNOCENT)] == ["RUNNING"] * INNOCENTS,
            namespace=NAMESPACE,
            seconds=INNOCENT_SECONDS,
        )
        world.order_failing(BOMB)
        world.kube.until(
            "the culprit has failed",
            lambda: world.rows("status", BOMB) == [["FAILED"]],
            namespace=NAMESPACE,
            seconds=DONE_SECONDS,
        )
        world.finished("each innocent", seconds=DONE_SECONDS)
    assert sum(restarts(world.kube, "worker-fragile").values()) >= 1
    innocents = world.rows("status, attempts, crashes", INNOCENT)
    assert innocents == [["SUCCEEDED", "2", "0"]] * INNOCENTS, "the first attempt was cut short, the second is the last"
    (((error, crashes),)) = world.rows("last_error, crashes", BOMB)
    assert int(crashes) == CRASHES_MAX
    assert error.startswith(f"worker lost {CRASHES_MAX} times while it ran this task, alone each time")
    assert "memory" in error
    assert "resources.limits.memory" in error


def test_a_task_that_fails_for_good_is_a_dead_letter(world: World) -> None:
    with world.step("a task that fails twice, until it is a dead letter"):
        world.order_failing()
        world.kube.until(
            "it is a dead letter", lambda: len(world.dead_letters()) == world.failing, namespace=NAMESPACE, seconds=120
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
    queries = sorted(
        {query for dashboard in maps for text in dashboard["data"].values() for query in dashboard_queries(text)}
    )
    assert queries
    empty: list[str] = []

    def answered() -> bool:
        empty[:] = [query for query in queries if not world.kube.query(query)]
        return not empty

    try:
        world.kube.until("every query gives data", answered, namespace="monitoring", seconds=READY_SECONDS)
    except HackError as error:
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


def test_at_rest_nothing_is_written(world: World) -> None:
    world.finished("everything", seconds=DONE_SECONDS)
    rest = Rest(world)
    try:
        with world.step(f"at rest, until {SWEEPS} sweeps have passed without a write"):
            world.kube.until("nothing is written", rest.reached, namespace=NAMESPACE, seconds=REST_SECONDS)
    except HackError as error:
        raise AssertionError(f"written last: {sorted(rest.written)}") from error


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
    names = {definition["metadata"]["name"] for definition in kube.items("crd")}
    assert {"tasktypes.dtq.dev", "queuesets.dtq.dev"} <= names
    assert kube.items("tt,qs", "--all-namespaces") == []


def test_the_report_is_written(world: World) -> None:
    report.write(world)

"""Scaling: what a queue wants is published, and done where it is asked for; what is unknown is left alone."""

from dataclasses import replace

import pytest

from dtq.domain.manifests import Scaling
from dtq_operator.targets import Cooldown
from tests.operator.conftest import Start
from tests.operator.running import QUICK, Running
from tests.operator.scenarios import DEPLOYMENT, scaled
from tests.operator.switchable_proxy import SwitchableProxy
from tests.operator.world import World
from tests.support.kube_api import ApiError, Object
from tests.support.kube_proxy import KubeProxy
from tests.support.waiting import CHANGE_SECONDS, eventually

BY_HAND = replace(QUICK, scaling_seconds=60.0)


def hint(found: Object) -> int | None:
    desired: int | None = found["status"]["queues"][0].get("desiredReplicas")
    return desired


async def until_replicas(world: World, count: int, *, look: Running | None = None) -> None:
    """Wait for replicas; `look` is an operator that looks only when it is told to."""

    async def has() -> bool:
        if look:
            await look.operator.scaler.once()
        return await world.replicas(DEPLOYMENT) == count

    await eventually(has, f"{count} replicas", CHANGE_SECONDS)


async def run_handlers(world: World, count: int, slots: int) -> None:
    """A worker that says of itself that it runs this many handlers."""
    await world.sql(
        "INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at, running)"
        " VALUES (gen_random_uuid(), 'w', '{}', '{}', $1, now() + interval '1 hour',"
        " jsonb_build_object('default/default', $2::int))",
        slots,
        count,
    )


async def test_the_backlog_is_published_in_status_and_as_a_metric(world: World, start: Start) -> None:
    running = await start()
    hints = {"minReplicas": 0, "targetBacklogPerReplica": 2, "cooldownSeconds": 0}
    obj = world.queue_set(queues=[{"name": "default", "scaling": hints}])
    await world.create_ready(obj)
    found = await world.until(obj, "ScalingActive", "True", "Published")
    assert hint(found) == 0
    await world.enqueue(5)

    async def wants_three() -> bool:
        now = await world.get(obj)
        return now is not None and hint(now) == 3

    await eventually(wants_three, "three replicas are wanted", CHANGE_SECONDS)
    assert running.metric("dq_queue_desired_replicas", queue_set="default", queue="default") == 3
    assert running.metric("dq_queue_tasks", queue_set="default", queue="default", state="ready") == 5


async def test_the_operator_scales_up_and_down_within_the_bounds(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT)
    running = await start(pace=BY_HAND)
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await until_replicas(world, 0, look=running)
    await world.enqueue(9)
    await until_replicas(world, 4, look=running)
    await world.sql("DELETE FROM tasks")
    await until_replicas(world, 0, look=running)
    assert "0 to 4 replicas" in str(await world.events(scaled(world)))


async def test_an_autoscaler_that_comes_has_the_deployment_to_itself(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT)
    await start()
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await until_replicas(world, 0)
    await world.create_autoscaler(DEPLOYMENT)
    found = await world.until(scaled(world), "ScalingActive", "False", "ExternallyManaged")
    assert "HorizontalPodAutoscaler mailer-hpa" in str(found["status"]["conditions"])
    await world.enqueue(9)

    async def wants_four() -> bool:
        now = await world.get(scaled(world))
        return now is not None and hint(now) == 4

    await eventually(wants_four, "four replicas are wanted, and published", CHANGE_SECONDS)
    assert await world.replicas(DEPLOYMENT) == 0


async def test_what_runs_is_never_scaled_away(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 5)
    await run_handlers(world, 3, slots=1)
    await start()
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=9, targetBacklogPerReplica=100))
    await until_replicas(world, 3)
    await world.sql("DELETE FROM workers")
    await until_replicas(world, 0)


async def test_what_is_unknown_scales_nothing_down(
    postgres_proxy: SwitchableProxy, rabbitmq_proxy: SwitchableProxy, world: World, start: Start
) -> None:
    await world.create_deployment(DEPLOYMENT)
    running = await start(pace=BY_HAND, **world.through(postgres_proxy, rabbitmq_proxy), DTQ_RESYNC_SECONDS="60s")
    await world.create_ready(scaled(world, minReplicas=0, maxReplicas=4, targetBacklogPerReplica=1))
    await world.enqueue(3)
    await until_replicas(world, 3, look=running)
    await world.sql("DELETE FROM tasks")
    await postgres_proxy.shut()
    replicas = await world.replicas(DEPLOYMENT)
    for _ in range(3):
        await running.operator.scaler.once()
    assert await world.replicas(DEPLOYMENT) == replicas
    labels = {"queue_set": "default", "queue": "default"}
    assert running.operator.registry.get_sample_value("dq_queue_desired_replicas", labels) is None


@pytest.mark.parametrize(
    ("known", "steps", "settled"),
    [
        (None, [(0, 1), (1, 5), (2, 1)], [1, 5, 5]),
        (None, [(0, 5), (11, 1)], [5, 1]),
        (7, [(0, 1), (5, 1), (11, 1)], [7, 7, 1]),
        (99, [(0, 1)], [8]),
        (None, [(0, 12)], [12]),
    ],
    ids=[
        "falls late",
        "falls at last",
        "a new start forgets nothing",
        "a lower maximum holds at once",
        "what runs counts",
    ],
)
def test_cooldown(known: int | None, steps: list[tuple[float, int]], settled: list[int]) -> None:
    scaling = Scaling(max_replicas=8, cooldown_seconds=10)
    cooldown = Cooldown(known, 0.0)
    assert [cooldown.settle(wanted, scaling, now) for now, wanted in steps] == settled


async def test_two_queues_of_one_target_give_one_number(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 2)
    running = await start(pace=BY_HAND)
    both = sharing(world, high={"maxReplicas": 4}, default={"maxReplicas": 4})
    await world.create_ready(both)
    await world.enqueue(2, queue="high")
    await world.enqueue(1)
    await until_replicas(world, 3, look=running)
    for _ in range(5):
        await running.operator.scaler.once()
        assert await world.replicas(DEPLOYMENT) == 3
    await world.enqueue(7, queue="high")
    await until_replicas(world, 4, look=running)
    told = [message for _, reason, message in await world.events(both) if reason == "Scaled"]
    assert sorted(told) == ["mailer: 2 to 3 replicas", "mailer: 3 to 4 replicas"], "it went up and down"
    assert (await world.conditions(both))["ScalingActive"] == ("True", "OperatorScaling")


async def test_two_queue_sets_of_one_target_give_one_number(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 1)
    running = await start(pace=BY_HAND)
    first, second = scaled(world, minReplicas=3), scaled(world, minReplicas=0, maxReplicas=2)
    second["metadata"] = second["metadata"] | {"name": "second"}
    second["spec"]["namespace"] = "second"
    await world.create_ready(first, second)
    await until_replicas(world, 3, look=running)
    for _ in range(3):
        await running.operator.scaler.once()
        assert await world.replicas(DEPLOYMENT) == 3


async def test_an_unknown_backlog_holds_the_target_that_queues_share(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 4)
    running = await start(pace=BY_HAND, DTQ_RESYNC_SECONDS="60s")
    both = sharing(world, high={"minReplicas": 4}, default={"minReplicas": 0})
    await world.create_ready(both)
    await running.sweep()
    await world.hide_tasks()
    await running.operator.scaler.once()
    found = await world.until(both, "ScalingActive", "False", "StatsUnavailable")
    assert "replicas are not changed" in str(found["status"]["conditions"])
    assert await world.replicas(DEPLOYMENT) == 4


async def test_a_paused_set_counts_by_what_still_runs_in_the_target_that_it_shares(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 1)
    await run_handlers(world, 2, slots=1)
    running = await start(pace=BY_HAND)
    paused, active = scaled(world, targetBacklogPerReplica=1), scaled(world, targetBacklogPerReplica=1)
    paused["spec"]["paused"] = True
    active["metadata"] = active["metadata"] | {"name": "second"}
    active["spec"]["namespace"] = "second"
    await world.create_ready(paused, active)
    await world.enqueue(5)
    await world.enqueue(1, queue_set="second")
    await until_replicas(world, 3, look=running)


async def test_the_loser_of_a_conflict_does_not_hold_the_target(world: World, start: Start) -> None:
    await world.create_deployment(DEPLOYMENT, 1)
    running = await start(pace=BY_HAND)
    loser = scaled(world, minReplicas=9)
    loser["metadata"] = loser["metadata"] | {"name": "loser"}
    await world.create_ready(scaled(world, minReplicas=2))
    await world.create(loser)
    await world.until(loser, "Ready", "False", "PrefixConflict")
    await until_replicas(world, 2, look=running)


async def test_a_set_that_no_longer_parses_says_so_and_ends_nothing(world: World, start: Start) -> None:
    """An older definition let it in; its status still says that it was ready."""
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/queuesets.dtq.dev"
    await world.create_deployment(DEPLOYMENT, 1)
    running = await start()
    good = scaled(world, minReplicas=2)
    bad = world.queue_set("bad", namespace="bad")
    await world.create_ready(good, bad)
    crd = await world.kube.call("GET", path)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    queue = spec["queues"]["items"]["properties"]["name"]
    pattern = queue.pop("pattern")
    await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    try:
        names = [{"name": "default"}, {"name": "Not A Queue"}]

        async def is_let_in() -> bool:
            try:
                await world.patch(bad, {"spec": {"queues": names}})
            except ApiError as error:
                if error.status != 422:
                    raise
                return False
            return True

        await eventually(is_let_in, "the definition lets it in", CHANGE_SECONDS)
    finally:
        queue["pattern"] = pattern
        await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    found = await world.until(bad, "ScalingActive", "False", "InvalidSpec")
    assert "spec.queues.1.name" in str(found["status"]["conditions"])
    await until_replicas(world, 2)
    assert not running.has_ended


async def test_an_admission_policy_that_refuses_is_told_and_ends_nothing(world: World, start: Start) -> None:
    """A real one, which answers 422 with words of its own."""
    name = f"no-scaling-{world.namespace}"
    policy = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": world.namespace}},
                "resourceRules": [
                    {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"],
                     "resources": ["deployments/scale"]}
                ],
            },
            "validations": [{"expression": "object.spec.replicas < 2", "message": "budget: one replica is enough"}],
        },
    }  # fmt: skip
    binding = {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    base = "/apis/admissionregistration.k8s.io/v1"
    await world.create_deployment(DEPLOYMENT, 1)
    await world.kube.call("POST", f"{base}/validatingadmissionpolicies", policy)
    await world.kube.call("POST", f"{base}/validatingadmissionpolicybindings", binding)

    async def is_in_force() -> bool:
        path = f"/apis/apps/v1/namespaces/{world.namespace}/deployments/{DEPLOYMENT}/scale"
        try:
            await world.kube.call("PATCH", path, {"spec": {"replicas": 2}})
        except ApiError:
            return True
        await world.kube.call("PATCH", path, {"spec": {"replicas": 1}})
        return False

    await eventually(is_in_force, "the policy is in force", CHANGE_SECONDS)
    running = await start()
    await world.create_ready(scaled(world, minReplicas=3))
    found = await world.until(scaled(world), "ScalingActive", "False", "ScalingFailed")
    told = str(found["status"]["conditions"])
    assert "patch deployments/scale mailer" in told
    assert "budget: one replica is enough" in told
    await world.kube.call("DELETE", f"{base}/validatingadmissionpolicybindings/{name}")
    await world.kube.call("DELETE", f"{base}/validatingadmissionpolicies/{name}")
    await until_replicas(world, 3)
    await world.until(scaled(world), "ScalingActive", "True", "OperatorScaling")
    assert not running.has_ended


def sharing(world: World, **scaling: Object) -> Object:
    """A QueueSet whose queues share a target."""
    common = {
        "mode": "Operator",
        "targetRef": {"name": DEPLOYMENT},
        "cooldownSeconds": 0,
        "targetBacklogPerReplica": 1,
    }
    return world.queue_set(queues=[{"name": name, "scaling": common | own} for name, own in scaling.items()])


async def test_a_refused_scale_is_not_asked_again_before_its_pause_is_over(
    proxy: KubeProxy, world: World, start: Start
) -> None:
    fault = proxy.strike(f"PATCH .*/deployments/{DEPLOYMENT}/scale", status=422)
    await world.create_deployment(DEPLOYMENT, 1)
    running = await start(pace=BY_HAND)
    await world.create_ready(scaled(world, minReplicas=3))

    async def is_refused() -> bool:
        await running.operator.scaler.once()
        return fault.struck > 0

    await eventually(is_refused, "scaling is refused", CHANGE_SECONDS)
    looked = proxy.count(f"GET .*/deployments/{DEPLOYMENT}/scale")
    for _ in range(5):
        await running.operator.scaler.once()
    assert fault.struck == 1
    assert proxy.count(f"GET .*/deployments/{DEPLOYMENT}/scale") == looked
    await world.until(scaled(world), "ScalingActive", "False", "ScalingFailed")

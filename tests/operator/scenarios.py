"""One scenario for each reason of a condition or an Event, on a real API server, Postgres and RabbitMQ.

Only the operator writes a status.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from tests.operator.conftest import Start
from tests.operator.running import QUICK, Running
from tests.operator.switchable_proxy import SwitchableProxy
from tests.operator.world import World
from tests.support.kube_api import Object
from tests.support.kube_proxy import KubeProxy

DEPLOYMENT: Final = "mailer"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a scenario plays on."""

    world: World
    start: Start
    postgres: SwitchableProxy
    rabbitmq: SwitchableProxy
    proxy: KubeProxy

    async def begin(self, **settings: Any) -> Running:
        """Start an operator that reaches everything through proxies."""
        running: Running = await self.start(**self.world.through(self.postgres, self.rabbitmq), **settings)
        return running


Scenario = Callable[[Stage], Awaitable[Object]]
"""Leads to the reason, and returns the object that should give it."""
_SCENARIOS: dict[tuple[str, str, str], Scenario] = {}


def reaches(type_: str, status: str, reason: str) -> Callable[[Scenario], Scenario]:
    """Mark a scenario with the condition, or with the `Event`, that it leads to."""

    def keep(scenario: Scenario) -> Scenario:
        assert (type_, status, str(reason)) not in _SCENARIOS
        _SCENARIOS[type_, status, str(reason)] = scenario
        return scenario

    return keep


def scenarios() -> dict[tuple[str, str, str], Scenario]:
    """Every scenario, by type, status and reason of its condition; of an Event, the status is its type."""
    return dict(_SCENARIOS)


@reaches("Accepted", "True", "Claimed")
@reaches("Synced", "True", "RowMatches")
@reaches("Ready", "True", "Serving")
@reaches("Served", "True", "WorkersReady")
@reaches("Reconciling", "False", "Settled")
@reaches("Stalled", "False", "Settled")
async def a_type_that_is_served(stage: Stage) -> Object:
    await stage.world.add_worker()
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set(), stage.world.task_type())
    return stage.world.task_type()


@reaches("Ready", "True", "Accepting")
@reaches("Served", "Unknown", "JustDeclared")
async def a_type_whose_workers_are_on_their_way(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set(), stage.world.task_type())
    return stage.world.task_type()


@reaches("Served", "False", "QueueNotConsumed")
async def a_type_whose_queue_nobody_consumes(stage: Stage) -> Object:
    await stage.world.add_worker(queues=["high"])
    await stage.begin(pace=replace(QUICK, unserved_seconds=0.0))
    await stage.world.create_ready(stage.world.queue_set(), stage.world.task_type())
    return stage.world.task_type()


@reaches("Served", "False", "NoHandler")
async def a_type_that_no_worker_of_its_queue_handles(stage: Stage) -> Object:
    await stage.world.add_worker(types=["report.build.v1"])
    await stage.begin(pace=replace(QUICK, unserved_seconds=0.0))
    await stage.world.create_ready(stage.world.queue_set(), stage.world.task_type())
    return stage.world.task_type()


@reaches("Served", "Unknown", "ScaledToZero")
async def a_type_whose_pool_is_scaled_to_zero(stage: Stage) -> Object:
    world = stage.world
    worker = await world.add_worker()
    await stage.begin(pace=replace(QUICK, unserved_seconds=0.0))
    await world.create_ready(world.queue_set(), world.task_type())
    await world.until(world.task_type(), "Served", "True")
    await world.end_worker(worker)
    return world.task_type()


@reaches("Ready", "True", "Inactive")
async def a_type_that_takes_nothing_new(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set(), stage.world.task_type(active=False))
    return stage.world.task_type()


@reaches("TopologyDeclared", "True", "Declared")
@reaches("ScalingActive", "True", "Published")
async def a_set_that_is_served(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create(stage.world.queue_set())
    return stage.world.queue_set()


@reaches("Reconciling", "True", "MovingTasks")
async def a_queue_taken_out_with_the_tasks_that_wait_in_it(stage: Stage) -> Object:
    world = stage.world
    low = [{"name": "default"}, {"name": "low"}]
    await stage.begin()
    await world.create_ready(world.queue_set(queues=low), world.task_type())
    await world.enqueue(3, queue="low")
    spec = {"queues": low[:1], "onRemoval": {"policy": "MoveTo", "queue": "default"}}
    await world.patch(world.queue_set(), {"spec": spec})
    return world.queue_set()


@reaches("Ready", "True", "Paused")
async def a_set_that_is_paused(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create(stage.world.queue_set(paused=True))
    return stage.world.queue_set()


@reaches("Ready", "False", "NameConflict")
@reaches("Accepted", "False", "NameConflict")
@reaches("Synced", "False", "NotAccepted")
@reaches("Stalled", "True", "NameConflict")
async def a_name_that_another_has(stage: Stage) -> Object:
    world = stage.world
    other = await world.another_namespace()
    await stage.begin()
    await world.create_ready(world.queue_set(), world.task_type())
    second = world.moved(world.task_type(), other)
    await world.create(second)
    return second


@reaches("Ready", "False", "PrefixConflict")
async def a_prefix_that_another_has(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set())
    await stage.world.create(stage.world.queue_set("second"))
    return stage.world.queue_set("second")


@reaches("Ready", "False", "UnmanagedExists")
async def a_row_that_nobody_claims(stage: Stage) -> Object:
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set())
    await world.sql(
        "INSERT INTO task_type (type, default_queue, queue_set, default_max_attempts)"
        " VALUES ('email.send.v1', 'default', 'default', 9)"
    )
    await world.create(world.task_type())
    return world.task_type()


@reaches("Ready", "False", "InvalidSchema")
async def a_schema_that_is_none(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create(stage.world.queue_set(), stage.world.task_type(payloadSchema={"type": "nonsense"}))
    return stage.world.task_type()


@reaches("Ready", "False", "InvalidSchedule")
async def a_schedule_that_never_fires(stage: Stage) -> Object:
    schedule = [{"name": "never", "cron": "0 0 30 2 *"}]
    await stage.begin()
    await stage.world.create(stage.world.queue_set(), stage.world.task_type(schedule=schedule))
    return stage.world.task_type()


@reaches("Ready", "False", "InvalidSpec")
async def an_object_that_an_older_definition_let_in(stage: Stage) -> Object:
    world = stage.world
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tasktypes.dtq.dev"
    crd = await world.kube.call("GET", path)
    queue = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["queue"]
    pattern = queue.pop("pattern")
    await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    try:
        await world.until_created(world.task_type(queue="Not A Queue"))
    finally:
        queue["pattern"] = pattern
        await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    await stage.begin()
    return world.task_type()


@reaches("Ready", "False", "NewerRelease")
@reaches("Stalled", "True", "NewerRelease")
async def an_object_that_a_newer_definition_let_in(stage: Stage) -> Object:
    world = stage.world
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/tasktypes.dtq.dev"
    crd = await world.kube.call("GET", path)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    strategies = spec["backoff"]["properties"]["strategy"]["enum"]
    strategies.append("Fibonacci")
    await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    try:
        await world.until_created(world.task_type(backoff={"strategy": "Fibonacci"}))
    finally:
        strategies.remove("Fibonacci")
        await world.kube.call("PATCH", path, {"spec": crd["spec"]})
    await stage.begin()
    return world.task_type()


@reaches("Ready", "False", "QueueSetNotFound")
async def a_type_without_its_set(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create(stage.world.task_type())
    return stage.world.task_type()


@reaches("Ready", "False", "QueueNotDeclared")
async def a_type_whose_queue_is_not_in_the_set(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set())
    await stage.world.create(stage.world.task_type(queue="elsewhere"))
    return stage.world.task_type()


@reaches("Ready", "False", "ImmutableField")
async def a_queue_made_anew_with_other_arguments(stage: Stage) -> Object:
    """CEL refuses the edit; deleting and creating the set again is the way around it, and ends here."""
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set())
    await world.delete(world.queue_set())
    await world.until_unclaimed("QueueSet", "default")
    classic = world.queue_set(queues=[{"name": "default", "type": "Classic"}], annotations={"dtq.dev/adopt": "true"})
    await world.create(classic)
    return classic


@reaches("Ready", "False", "InUse")
@reaches("Reconciling", "True", "Terminating")
async def a_set_deleted_while_a_type_needs_it(stage: Stage) -> Object:
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"), world.task_type())
    await world.delete(world.queue_set())
    return world.queue_set()


@reaches("Ready", "False", "NotEmpty")
async def a_set_deleted_while_a_queue_holds_messages(stage: Stage) -> Object:
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    await world.publish("tasks.default")
    await world.delete(world.queue_set())
    return world.queue_set()


@reaches("Ready", "False", "BackendUnavailable")
async def a_deletion_while_the_broker_is_down(stage: Stage) -> Object:
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    await stage.rabbitmq.shut()
    await world.delete(world.queue_set())
    return world.queue_set()


@reaches("Event", "Warning", "ExternalResourcesOrphaned")
async def a_deletion_that_gives_up_on_the_broker(stage: Stage) -> Object:
    world = stage.world
    await stage.begin(DTQ_DELETE_GIVE_UP="2s")
    await world.create_ready(world.queue_set(deletionPolicy="DeleteIfEmpty"))
    await stage.rabbitmq.shut()
    await world.delete(world.queue_set())
    await world.until_gone(world.queue_set())
    return world.queue_set()


@reaches("Event", "Warning", "DriftRepaired")
async def a_row_that_somebody_edits(stage: Stage) -> Object:
    world = stage.world
    await stage.begin()
    await world.create_ready(world.queue_set(), world.task_type())
    await world.sql("UPDATE task_type SET default_max_attempts = 1")
    return world.task_type()


@reaches("Ready", "False", "DatabaseUnavailable")
@reaches("Accepted", "Unknown", "DatabaseUnavailable")
@reaches("Served", "Unknown", "DatabaseUnavailable")
async def a_type_while_postgres_is_down(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create_ready(stage.world.queue_set())
    await stage.postgres.shut()
    await stage.world.create(stage.world.task_type())
    return stage.world.task_type()


@reaches("Ready", "False", "DatabaseNotMigrated")
@reaches("Reconciling", "True", "DatabaseNotMigrated")
async def a_type_while_the_schema_is_not_there_yet(stage: Stage) -> Object:
    await stage.world.sql("ALTER SCHEMA public RENAME TO not_yet")
    await stage.begin()
    await stage.world.create(stage.world.task_type())
    return stage.world.task_type()


@reaches("TopologyDeclared", "Unknown", "BrokerUnreachable")
@reaches("Ready", "False", "BrokerUnreachable")
async def a_set_while_rabbitmq_is_down(stage: Stage) -> Object:
    await stage.begin()
    await stage.rabbitmq.shut()
    await stage.world.create(stage.world.queue_set())
    return stage.world.queue_set()


@reaches("TopologyDeclared", "False", "AccessRefused")
@reaches("Stalled", "True", "AccessRefused")
async def a_broker_that_refuses_to_declare(stage: Stage) -> Object:
    world = stage.world
    await world.allow(configure="^$")
    await stage.begin()
    await world.create(world.queue_set())
    return world.queue_set()


@reaches("TopologyDeclared", "False", "ArgumentMismatch")
async def a_queue_that_exists_with_other_arguments(stage: Stage) -> Object:
    world = stage.world
    await world.broker_call("PUT", "/api/queues/{vhost}/tasks.default", {"durable": True, "arguments": {}})
    await stage.begin()
    await world.create(world.queue_set())
    return world.queue_set()


def scaled(world: World, **scaling: Any) -> Object:
    """A QueueSet whose queue the operator scales."""
    hints = {"mode": "Operator", "targetRef": {"name": DEPLOYMENT}, "cooldownSeconds": 0} | scaling
    return world.queue_set(queues=[{"name": "default", "scaling": hints}])


@reaches("ScalingActive", "True", "OperatorScaling")
@reaches("Event", "Normal", "Scaled")
async def a_deployment_that_the_operator_scales(stage: Stage) -> Object:
    world = stage.world
    await world.create_deployment(DEPLOYMENT)
    await stage.begin()
    await world.create(scaled(world))
    return scaled(world)


@reaches("ScalingActive", "False", "TargetNotFound")
async def a_deployment_that_is_not_there(stage: Stage) -> Object:
    await stage.begin()
    await stage.world.create(scaled(stage.world))
    return scaled(stage.world)


@reaches("ScalingActive", "False", "ExternallyManaged")
async def a_deployment_that_an_autoscaler_has(stage: Stage) -> Object:
    world = stage.world
    await world.create_deployment(DEPLOYMENT)
    await world.create_autoscaler(DEPLOYMENT)
    await stage.begin()
    await world.create(scaled(world))
    return scaled(world)


@reaches("ScalingActive", "False", "ScalingFailed")
async def a_role_that_does_not_allow_scaling(stage: Stage) -> Object:
    world = stage.world
    stage.proxy.strike("horizontalpodautoscalers", status=403)
    await stage.begin()
    await world.create(scaled(world))
    return scaled(world)


@reaches("ScalingActive", "False", "Paused")
async def a_paused_set_that_the_operator_scales(stage: Stage) -> Object:
    world = stage.world
    paused = scaled(world)
    paused["spec"]["paused"] = True
    await stage.begin()
    await world.create(paused)
    return paused


@reaches("ScalingActive", "False", "StatsUnavailable")
async def a_backlog_that_is_unknown(stage: Stage) -> Object:
    world = stage.world
    running = await stage.begin(pace=replace(QUICK, scaling_seconds=60.0), DTQ_RESYNC_SECONDS="60s")
    await world.create_ready(world.queue_set())
    await world.until(world.queue_set(), "ScalingActive", "True")
    await running.sweep()
    await world.hide_tasks()
    await running.operator.scaler.once()
    return world.queue_set()


@reaches("ScalingActive", "Unknown", "Disabled")
async def a_set_without_scaling(stage: Stage) -> Object:
    world = stage.world
    disabled = world.queue_set(queues=[{"name": "default", "scaling": {"mode": "Disabled"}}])
    await stage.begin()
    await world.create(disabled)
    return disabled

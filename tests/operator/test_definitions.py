"""The definitions: what `kubectl` shows, what it refuses, and what the operator answers to the rest."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from hack.crds import generated
from hack.definitions import queue_set_crd, task_type_crd
from hack.lib.errors import HackError
from tests.operator.conftest import Start
from tests.operator.world import TYPE, World
from tests.support.kube_api import Object

DEEP: Any = {"type": "object"}
for _ in range(200):
    DEEP = {"properties": {"a": DEEP}}


def test_the_files_are_what_the_models_say() -> None:
    stale = [path.name for path, text in generated().items() if path.read_text() != text]
    assert stale == [], "run `make crds`"


def properties(schema: Object, path: str) -> Iterator[tuple[str, Object]]:
    for name, child in schema.get("properties", {}).items():
        if f"{path}.{name}" != ".metadata":
            yield f"{path}.{name}", child
            yield from properties(child, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from properties(schema["items"], f"{path}[]")


@pytest.mark.parametrize("crd", [task_type_crd(), queue_set_crd()], ids=["TaskType", "QueueSet"])
def test_every_field_is_explained(crd: Object) -> None:
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    silent = [path for path, field in properties(root, "") if len(field.get("description", "")) < 3]
    assert silent == []


@pytest.mark.parametrize("crd", [task_type_crd(), queue_set_crd()], ids=["TaskType", "QueueSet"])
def test_every_field_of_a_spec_is_bounded(crd: Object) -> None:
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    bounds = {"string": ("maxLength", "enum", "pattern"), "integer": ("maximum",), "array": ("maxItems",)}
    unbounded = [
        path
        for path, field in properties(root["properties"]["spec"], ".spec")
        if field["type"] in bounds and not any(bound in field for bound in bounds[field["type"]])
    ]
    assert unbounded == []


async def test_kubectl_explains_lists_and_abbreviates(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set(), world.task_type())
    types = (await world.kubectl("get", "tt")).splitlines()
    assert types[0].split() == ["NAME", "QUEUE", "ATTEMPTS", "TIMEOUT", "ACTIVE", "READY", "REASON", "SERVED", "AGE"]
    assert types[1].split()[:8] == [TYPE, "default", "5", "300", "true", "True", "Accepting", "Unknown"]
    sets = (await world.kubectl("get", "qs")).splitlines()
    assert sets[0].split() == ["NAME", "PREFIX", "QUEUES", "PAUSED", "READY", "REASON", "SCALING", "AGE"]
    assert sets[1].split()[:7] == ["default", "tasks", "1", "false", "True", "Serving", "True"]
    assert "The most attempts of a task" in await world.kubectl("explain", "tt.spec.maxAttempts")
    assert "The retry queues" in await world.kubectl("explain", "qs.spec.retry")
    listed = await world.kubectl("get", "dtq", "-o", "name")
    assert set(listed.split()) == {f"tasktype.dtq.dev/{TYPE}", "queueset.dtq.dev/default"}


async def test_defaults_are_shown_on_the_object(world: World) -> None:
    await world.kubectl("apply", "-f", "-", manifest=world.task_type())
    found = await world.get(world.task_type())
    assert found is not None
    assert found["spec"] == {
        "active": True,
        "deletionPolicy": "Deactivate",
        "maxAttempts": 5,
        "maxPayloadBytes": 262144,
        "queue": "default",
        "queueSetRef": {"name": "default"},
        "retention": {"failedSeconds": 2592000, "succeededSeconds": 604800},
        "timeoutSeconds": 300,
    }


REFUSED_TYPES: dict[str, tuple[Object, str]] = {
    "a schema that is no object": ({"payloadSchema": "string"}, "payloadSchema"),
    "an unknown field": ({"maxAtempts": 5}, "maxAtempts"),
    "a duration with a unit": ({"timeoutSeconds": "0s"}, "timeoutSeconds"),
    "a duration of nothing": ({"timeoutSeconds": 0}, "timeoutSeconds"),
    "a negative duration": ({"timeoutSeconds": -1}, "timeoutSeconds"),
    "a duration of a year": ({"timeoutSeconds": 31_536_000}, "timeoutSeconds"),
    "a year in words": ({"backoff": {"strategy": "Fixed", "delaySeconds": "1y"}}, "delaySeconds"),
    "an endless duration": ({"backoff": {"strategy": "Fixed", "delaySeconds": "∞"}}, "delaySeconds"),
    "a fraction": ({"timeoutSeconds": 1.5}, "timeoutSeconds"),
    "no attempt": ({"maxAttempts": 0}, "maxAttempts"),
    "a billion attempts": ({"maxAttempts": 10**9}, "maxAttempts"),
    "a number as text": ({"maxAttempts": "5"}, "maxAttempts"),
    "a boolean as text": ({"active": "TRUE"}, "active"),
    "a back-off that ends before it begins": (
        {"backoff": {"strategy": "Exponential", "baseSeconds": 60, "maxSeconds": 5}},
        "maxSeconds is below baseSeconds",
    ),
    "fields of another strategy": ({"backoff": {"strategy": "Fixed", "delaysSeconds": [1]}}, "belongs to strategy"),
    "an unknown strategy": ({"backoff": {"strategy": "Random"}}, "strategy"),
    "an empty ladder": ({"backoff": {"strategy": "List", "delaysSeconds": []}}, "delaysSeconds"),
    "an upper-case queue": ({"queue": "HIGH"}, "queue"),
    "a wildcard queue": ({"queue": "#"}, "queue"),
    "a queue with a line break": ({"queue": "high\n"}, "queue"),
    "a queue that looks like another": ({"queue": "hіgh"}, "queue"),  # noqa: RUF001 - a Cyrillic letter, on purpose
    "two schedules of one name": (
        {"schedule": [{"name": "a", "cron": "* * * * *"}, {"name": "a", "cron": "* * * * *"}]},
        "Duplicate value",
    ),
    "a schema of a megabyte": ({"payloadSchema": {"description": "x" * 2**20}}, "ong"),
    "a policy that is none": ({"deletionPolicy": "Destroy"}, "deletionPolicy"),
}


@pytest.mark.parametrize(("spec", "told"), REFUSED_TYPES.values(), ids=REFUSED_TYPES)
async def test_kubectl_apply_refuses_a_bad_task_type(world: World, spec: Object, told: str) -> None:
    with pytest.raises(HackError, match=told):
        await world.kubectl("apply", "-f", "-", manifest=world.task_type(**spec))
    assert await world.get(world.task_type()) is None


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("tasktypes.spec.maxAttempts", "default 5, 1 to 20"),
        ("tasktypes.spec.queueSetRef", 'default {"name": "default"}'),
        ("tasktypes.spec.active", "default true"),
        ("tasktypes.spec.schedule.cron", "6 to 100 characters"),
        ("queuesets.spec.queues", "1 to 32 entries"),
        ("queuesets.spec.queues.type", "default Quorum"),
        ("queuesets.spec.retry.delaysSeconds", "default [5, 30, 120, 600, 3600], 1 to 12 entries"),
    ],
)
async def test_kubectl_explain_tells_default_and_bounds(world: World, field: str, told: str) -> None:
    # kubectl folds long lines.
    assert told in " ".join((await world.kubectl("explain", field)).split())


BAD_NAMES = [
    "email", "Email.send.v1", "a/b.v1", "email..v1", ".email.v1", "*.v1", "email.send.v1\n",
    "e" * 127 + ".v1", "e." + "v" * 252,
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES)
async def test_kubectl_apply_refuses_a_bad_name(world: World, name: str) -> None:
    with pytest.raises(HackError):
        await world.kubectl("apply", "-f", "-", manifest=world.task_type(name))


REFUSED_SETS: dict[str, tuple[Object, str]] = {
    "no queue": ({"queues": []}, "queues"),
    "too many queues": ({"queues": [{"name": f"q{n}"} for n in range(200)]}, "queues"),
    "one queue twice": ({"queues": [{"name": "a"}, {"name": "a"}]}, "Duplicate value"),
    "a reserved queue": ({"queues": [{"name": "dlq"}]}, "reserved"),
    "a routing pattern": ({"queues": [{"name": "a.*"}]}, "name"),
    "a queue with an injected argument": ({"queues": [{"name": "a;x-queue-type=classic"}]}, "name"),
    "a prefix of RabbitMQ's own": ({"namespace": "amq"}, "reserved by RabbitMQ"),
    "an upper-case prefix": ({"namespace": "Tasks"}, "namespace"),
    "a vhost of its own": ({"vhost": "/"}, 'unknown field "spec.vhost"'),
    "a delay twice": ({"retry": {"delaysSeconds": [5, 5]}}, "Duplicate value"),
    "a delay of nothing": ({"retry": {"delaysSeconds": [0]}}, "delaysSeconds"),
    "fewest above most": (
        {"queues": [{"name": "a", "scaling": {"minReplicas": 9, "maxReplicas": 1}}]},
        "minReplicas is above maxReplicas",
    ),
    "an operator without a target": ({"queues": [{"name": "a", "scaling": {"mode": "Operator"}}]}, "needs targetRef"),
    "a removal without a target": ({"onRemoval": {"policy": "MoveTo"}}, "MoveTo needs queue"),
    "a target that is not used": ({"onRemoval": {"policy": "Refuse", "queue": "default"}}, "belongs to policy MoveTo"),
    "a target that is no queue": (
        {"onRemoval": {"policy": "MoveTo", "queue": "elsewhere"}},
        "not one of queues: name one that stays",
    ),
    "an unknown removal policy": ({"onRemoval": {"policy": "Drop"}}, "onRemoval.policy"),
    "a misspelt field": ({"queues": [{"name": "a", "prefetch": 8}]}, "unknown field"),
}


@pytest.mark.parametrize(("spec", "told"), REFUSED_SETS.values(), ids=REFUSED_SETS)
async def test_kubectl_apply_refuses_a_bad_queue_set(world: World, spec: Object, told: str) -> None:
    with pytest.raises(HackError, match=told):
        await world.kubectl("apply", "-f", "-", manifest=world.queue_set(**spec))
    assert await world.get(world.queue_set()) is None


IMMUTABLE: dict[str, Object] = {
    "namespace": {"namespace": "others"},
    "type": {"queues": [{"name": "default", "type": "Classic"}]},
    "maxLength": {"queues": [{"name": "default", "maxLength": 5}]},
}


@pytest.mark.parametrize("field", IMMUTABLE)
async def test_kubectl_apply_refuses_to_change_what_rabbitmq_keeps(world: World, field: str) -> None:
    await world.kubectl("apply", "-f", "-", manifest=world.queue_set())
    with pytest.raises(HackError, match=f"{field} is immutable"):
        await world.kubectl("apply", "-f", "-", manifest=world.queue_set(**IMMUTABLE[field]))


REFUSED_SCHEMAS: dict[str, Object] = {
    "an unknown draft": {"$schema": "https://example.com/draft"},
    "a remote reference": {"$ref": "http://example.com/schema.json"},
    "a file reference": {"$ref": "file:///etc/passwd"},
    "a reference to nothing": {"$ref": "#/$defs/nothing"},
    "look-around": {"properties": {"a": {"type": "string", "pattern": "^(?=a)b"}}},
    "a size bomb": {"properties": {"a": {"type": "string", "pattern": "((a{1000}){1000}){1000}"}}},
    "a pattern that is none": {"properties": {"a": {"type": "string", "pattern": "("}}},
    "depth": DEEP,
    "doubling branches": {"anyOf": [{"anyOf": [{"const": n}] * 10} for n in range(40)]},
    "70 KiB": {"description": "x" * 70_000},
    "a keyword of the wrong kind": {"type": "object", "required": "to"},
}


async def test_a_schema_that_cannot_be_served_is_answered_by_a_condition(world: World, start: Start) -> None:
    await start()
    await world.create_ready(world.queue_set())
    made = {
        what: world.task_type(f"bad.t{number}", payloadSchema=schema)
        for number, (what, schema) in enumerate(REFUSED_SCHEMAS.items())
    }
    await world.create(*made.values())
    for what, obj in made.items():
        found = await world.until(obj, "Accepted", "False", "InvalidSchema")
        message = next(
            condition["message"] for condition in found["status"]["conditions"] if condition["type"] == "Accepted"
        )
        assert message.startswith("spec.payloadSchema"), what
        assert await world.row(obj["metadata"]["name"]) is None, what


async def test_a_hard_schema_that_is_legal_is_served(world: World, start: Start) -> None:
    await start()
    hard = {
        "type": "object",
        "properties": {"a": {"type": "string", "pattern": "^(a+)+$"}, "child": {"$ref": "#"}},
        "anyOf": [{"required": ["a"]}, {"required": ["child"]}],
    }
    await world.create_ready(world.queue_set(), world.task_type(payloadSchema=hard))
    row = await world.row()
    assert row is not None
    assert json.loads(row["payload_schema"]) == hard


async def test_what_a_person_writes_beside_the_spec_reaches_no_name_in_the_broker(world: World, start: Start) -> None:
    await start()
    injected = copy.deepcopy(world.queue_set(annotations={"dtq.dev/adopt": "tasks.*; drop"}))
    injected["metadata"]["labels"] = {"dtq.dev/queue": "amq.topic"}
    await world.create_ready(injected)
    assert set(await world.queues()) == {"tasks.default", "tasks.retry.default.5s", "tasks.dlq"}
    assert await world.exchanges() == {"tasks.direct", "tasks.dlx"}

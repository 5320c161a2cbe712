"""Generates the custom resource definitions from the manifest models.

Translates the models to structural schemas, and adds the CEL rules for what JSON Schema cannot express. `make crds`
writes `crds/`; a test checks that the files are up to date.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel

from dtq.domain.manifests import GROUP, VERSION, QueueSetSpec, TaskTypeSpec
from dtq.domain.names import RESERVED_QUEUES, TYPE_PATTERN

_COPIED: Final = (
    "default", "enum", "pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems",
)  # fmt: skip

_BOUNDS: Final = (
    ("minimum", "maximum", ""), ("minItems", "maxItems", " entries"), ("minLength", "maxLength", " characters"),
)  # fmt: skip

Rules = list[dict[str, str]]
"""CEL rules, as `x-kubernetes-validations` holds them."""


def _rule(rule: str, message: str) -> dict[str, str]:
    return {"rule": rule, "message": message}


def _immutable(field: str) -> dict[str, str]:
    name = "__namespace__" if field == "namespace" else field  # a reserved word in CEL
    rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"
    return _rule(rule, f"{field} is immutable, since RabbitMQ keeps a queue's arguments: declare it under a new name")


_reserved = ", ".join(f"'{name}'" for name in sorted(RESERVED_QUEUES))
_RULES: Final[Mapping[str, Rules]] = {
    "TaskTypeSpec.backoff": [
        _rule(
            "self.strategy == 'List' || !has(self.delaysSeconds)", "delaysSeconds belongs to strategy List: remove it"
        ),
        _rule(
            "self.strategy == 'Fixed' || !has(self.delaySeconds)", "delaySeconds belongs to strategy Fixed: remove it"
        ),
        _rule(
            "self.strategy == 'Exponential' || !(has(self.baseSeconds) || has(self.factor) || has(self.maxSeconds))",
            "baseSeconds, factor and maxSeconds belong to strategy Exponential: remove them",
        ),
        _rule(
            "(has(self.maxSeconds) ? self.maxSeconds : 3600) >= (has(self.baseSeconds) ? self.baseSeconds : 5) "
            "|| self.strategy != 'Exponential'",
            "maxSeconds is below baseSeconds: raise maxSeconds",
        ),
    ],
    "QueueSetSpec": [
        _immutable("namespace"),
        _rule("self.__namespace__ != 'amq'", "namespace 'amq' is reserved by RabbitMQ: choose another"),
        _rule(
            "!has(self.onRemoval.queue) || self.queues.exists(q, q.name == self.onRemoval.queue)",
            "onRemoval.queue is not one of queues: name one that stays",
        ),
    ],
    "QueueSetSpec.onRemoval": [
        _rule(
            "self.policy != 'MoveTo' || has(self.queue)",
            "policy MoveTo needs queue: name the queue that receives the tasks",
        ),
        _rule("self.policy == 'MoveTo' || !has(self.queue)", "queue belongs to policy MoveTo: remove it"),
    ],
    "QueueSetSpec.queues[]": [
        _immutable("type"),
        _immutable("maxLength"),
        _rule(f"!(self.name in [{_reserved}])", f"queue names {_reserved} are reserved: choose another"),
    ],
    "QueueSetSpec.queues[].scaling": [
        _rule("self.minReplicas <= self.maxReplicas", "minReplicas is above maxReplicas: lower minReplicas"),
        _rule("self.mode != 'Operator' || has(self.targetRef)", "mode Operator needs targetRef: name the Deployment"),
    ],
}
_LIST_KEYS: Final = {"TaskTypeSpec.schedule": "name", "QueueSetSpec.queues": "name"}
_SETS: Final = frozenset({"QueueSetSpec.retry.delaysSeconds"})
_OPAQUE: Final = frozenset({"TaskTypeSpec.payloadSchema", "TaskTypeSpec.schedule[].payload"})


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """Return the structural schema of a model, with its CEL rules."""
    schema = model.model_json_schema(by_alias=True)
    return _translate(schema, schema.get("$defs", {}), model.__name__)


def _translate(node: Mapping[str, Any], defs: Mapping[str, Any], path: str) -> dict[str, Any]:
    node = _resolved(node, defs)
    described = {"description": _explained(node)} if "description" in node else {}
    if path in _OPAQUE:
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True} | described
    out: dict[str, Any] = {"type": node["type"]} | described
    out |= {key: _without_nulls(node[key]) for key in _COPIED if key in node and node[key] is not None}
    if node["type"] == "integer":
        out["format"] = "int32"
    if node["type"] == "object":
        out["properties"] = {
            name: _translate(child, defs, f"{path}.{name}") for name, child in node.get("properties", {}).items()
        }
        if required := node.get("required"):
            out["required"] = required
    if node["type"] == "array":
        out["items"] = _translate(node["items"], defs, f"{path}[]")
        out |= _list_type(path)
    if rules := _RULES.get(path):
        out["x-kubernetes-validations"] = rules
    return out


def _resolved(node: Mapping[str, Any], defs: Mapping[str, Any]) -> dict[str, Any]:
    """Resolve `$ref` and remove the null of an optional field: here an absent field means null."""
    merged = dict(node)
    if options := merged.pop("anyOf", None):
        (chosen,) = [option for option in options if option.get("type") != "null"]
        merged = _resolved(chosen, defs) | merged
    if ref := merged.pop("$ref", None):
        merged = dict(_resolved(defs[ref.rsplit("/", 1)[1]], defs)) | merged
    return merged


def _explained(node: Mapping[str, Any]) -> str:
    """Return a description with default and bounds, which `kubectl explain` does not print."""
    facts = []
    if (default := node.get("default")) not in (None, "", [], {}):
        is_long = isinstance(default, dict) and len(default) > 1
        facts += [] if is_long else [f"default {default if isinstance(default, str) else json.dumps(default)}"]
    for least, most, unit in _BOUNDS:
        if most in node:
            facts.append(f"{node[least]} to {node[most]}{unit}" if least in node else f"at most {node[most]}{unit}")
    text = str(node["description"])
    return f"{text} ({', '.join(facts)})" if facts else text


def _without_nulls(value: Any) -> Any:
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


def _list_type(path: str) -> dict[str, Any]:
    if key := _LIST_KEYS.get(path):
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    return {"x-kubernetes-list-type": "set" if path in _SETS else "atomic"}


def _text(description: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "description": description} | more


_CONDITIONS: Final = {
    "type": "array",
    "description": "The current conditions; Ready summarizes them.",
    "maxItems": 16,
    "x-kubernetes-list-type": "map",
    "x-kubernetes-list-map-keys": ["type"],
    "items": {
        "type": "object",
        "required": ["type", "status", "reason", "lastTransitionTime"],
        "properties": {
            "type": _text("The type of the condition.", maxLength=316),
            "status": _text("Whether the condition is true.", enum=["True", "False", "Unknown"]),
            "reason": _text("The reason, as one CamelCase word.", maxLength=1024),
            "message": _text("The explanation, and what to do.", maxLength=32768),
            "lastTransitionTime": _text("When status last changed.", format="date-time"),
            "observedGeneration": {
                "type": "integer", "format": "int64", "description": "The generation that the condition describes."
            },
        },
    },
}  # fmt: skip
_GENERATION: Final = {"type": "integer", "format": "int64", "description": "The generation that the status describes."}

_TASK_TYPE_STATUS: Final = {
    "type": "object",
    "description": "The state that the operator observed.",
    "properties": {
        "observedGeneration": _GENERATION,
        "conditions": _CONDITIONS,
        "schemaHash": _text("The first 12 digits of the SHA-256 of the payload schema."),
    },
}
_COUNT32: Final = {"type": "integer", "format": "int32"}
_QUEUE_SET_STATUS: Final = {
    "type": "object",
    "description": "The state that the operator observed.",
    "properties": {
        "observedGeneration": _GENERATION,
        "conditions": _CONDITIONS,
        "queueCount": _COUNT32 | {"description": "The number of declared queues."},
        "queues": {
            "type": "array",
            "description": "The queues in RabbitMQ.",
            "maxItems": 64,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {
                "type": "object",
                "required": ["name", "queueName", "state"],
                "properties": {
                    "name": _text("The name in the spec."),
                    "queueName": _text("The name in RabbitMQ."),
                    "state": _text("Declared, or Mismatch if the queue exists with other arguments."),
                    "desiredReplicas": _COUNT32 | {"description": "The desired number of workers; absent if unknown."},
                },
            },
        },
    },
}


def _column(name: str, path: str, kind: str = "string", *, priority: int = 0) -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": priority} if priority else {})


def _condition(type_: str, field: str) -> str:
    return f'.status.conditions[?(@.type=="{type_}")].{field}'


_READY: Final = [_column("Ready", _condition("Ready", "status")), _column("Reason", _condition("Ready", "reason"))]
_AGE: Final = _column("Age", ".metadata.creationTimestamp", "date")


def task_type_crd() -> dict[str, Any]:
    """Return the definition of TaskType."""
    name_rules = [
        _rule(f"self.metadata.name.matches(r'{TYPE_PATTERN}')", "name must look like email.send.v1"),
        _rule("self.metadata.name.size() <= 128", "name is longer than 128 characters"),
    ]
    return _crd(
        "TaskType", "tasktypes", ["tt"], TaskTypeSpec, _TASK_TYPE_STATUS, name_rules,
        [
            _column("QueueSet", ".spec.queueSetRef.name", priority=1),
            _column("Queue", ".spec.queue"),
            _column("Attempts", ".spec.maxAttempts", "integer"),
            _column("Timeout", ".spec.timeoutSeconds", "integer"),
            _column("Active", ".spec.active", "boolean"),
            *_READY,
            _column("Served", _condition("Served", "status")),
            _column("Strategy", ".spec.backoff.strategy", priority=1),
            _column("SchemaHash", ".status.schemaHash", priority=1),
            _AGE,
        ],
        description="A kind of work: the queue of its tasks, how they run, and which payloads are valid.",
    )  # fmt: skip


def queue_set_crd() -> dict[str, Any]:
    """Return the definition of QueueSet."""
    name_rules = [_rule("self.metadata.name.size() <= 63", "name is longer than 63 characters")]
    return _crd(
        "QueueSet", "queuesets", ["qs"], QueueSetSpec, _QUEUE_SET_STATUS, name_rules,
        [
            _column("Prefix", ".spec.namespace"),
            _column("Queues", ".status.queueCount", "integer"),
            _column("Paused", ".spec.paused", "boolean"),
            *_READY,
            _column("Scaling", _condition("ScalingActive", "status")),
            _AGE,
        ],
        description="A group of queues with a common prefix, their retry queues and their dead letter queue.",
    )  # fmt: skip


def _crd(
    kind: str,
    plural: str,
    short_names: list[str],
    spec: type[BaseModel],
    status: dict[str, Any],
    root_rules: Rules,
    columns: list[dict[str, Any]],
    *,
    description: str,
) -> dict[str, Any]:
    spec_schema = structural(spec)
    spec_schema.setdefault("description", "The desired state.")
    root: dict[str, Any] = {
        "type": "object",
        "description": description,
        "required": ["spec"],
        "properties": {
            "apiVersion": _text("dtq.dev/v1alpha1."),
            "kind": _text(f"{kind}."),
            "metadata": {"type": "object"},
            "spec": spec_schema,
            "status": status,
        },
        "x-kubernetes-validations": root_rules,
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{GROUP}", "labels": {"app.kubernetes.io/part-of": "dtq"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
                "shortNames": short_names,
                "categories": ["dtq"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": columns,
                }
            ],
        },
    }

"""The OpenAPI document: the paths and their answers, for people and for schemathesis.

The bodies are generated from the types of `bodies` and `problems`. Tests compare the paths with the
routes, and every answer that they get with the document.
"""

from functools import cache
from importlib.metadata import version
from typing import Any, Final
from uuid import UUID

import msgspec

from dtq_api import bodies, problems
from dtq_api.auth.middleware import OPEN_PATHS
from dtq_api.bulk import ITEMS_MAX

Schema = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{name}"
_BODIES: Final = (
    bodies.Service,
    bodies.EnqueueBody,
    bodies.Enqueued,
    bodies.BulkEnqueued,
    bodies.Task,
    bodies.Payload,
    bodies.Page,
    bodies.Events,
    bodies.Cancelled,
    bodies.RedriveBody,
    bodies.Redriven,
    bodies.ScalingHint,
    bodies.Healthy,
    bodies.Degraded,
    problems.ProblemDetails,
)
_STRING: Final = {"type": "string"}


def _either(title: str, properties: Schema, *absent: str, all_: bool, **more: Any) -> Schema:
    """Return one way to choose tasks: its fields, and the fields that do not go with it."""
    others = {name: {"type": "null"} for name in absent} | {"all": {"const": all_}}
    return {"title": title, "properties": properties | others} | more


_FILTERS: Final = ("type", "queue", "failed_before")
_ANY_FILTER: Final = [{"properties": {name: _STRING}, "required": [name]} for name in _FILTERS]
_MORE: Final[dict[str, Schema]] = {
    "EnqueueBody": {
        "example": {"type": "email.send.v1", "payload": {"to": "ada@example.com"}, "idempotency_key": "welcome-ada"}
    },
    "RedriveBody": {
        "anyOf": [
            _either("By id", {"ids": {"type": "array"}}, *_FILTERS, "limit", all_=False, required=["ids"]),
            _either("By filter", {}, "ids", all_=False, anyOf=_ANY_FILTER),
            _either("All", {}, "ids", *_FILTERS, all_=True, required=["all"]),
        ],
        "example": {"type": "email.send.v1", "limit": 10, "dry_run": True},
    },
    "Degraded": {
        "patternProperties": {
            "^queue_set/": _STRING | {"description": "… the topology of that queue set; the others are not concerned."}
        }
    },
}
"""What the types of some bodies cannot say: examples, and which fields go together."""

_BODY_PROBLEMS: Final = ("InvalidBody", "RequestTimeout", "PayloadTooLarge", "UnsupportedMediaType")
_SERVER_PROBLEMS: Final = ("Internal", "Unavailable")
_RETRY_AFTER: Final = {"Retry-After": {"schema": {"type": "integer"}, "required": True, "description": "Seconds."}}


def _schema(type_: Any) -> Schema:
    """Return the schema of a type; of a body, a reference to it."""
    (schema,), _ = msgspec.json.schema_components([type_], ref_template=_REFERENCE)
    return schema


def _schemas() -> dict[str, Schema]:
    _, components = msgspec.json.schema_components(_BODIES, ref_template=_REFERENCE)
    return {name: schema | _MORE.get(name, {}) for name, schema in components.items()}


def _answer(body: type, description: str = "", **more: Any) -> Schema:
    """Return an answer; what its body is says its type's docstring, unless `description` does."""
    content = {"application/json": {"schema": _schema(body)}}
    return {"description": description or str(body.__doc__), "content": content} | more


def _problems(*codes: str) -> dict[str, Schema]:
    """Return the answers for these problem types, by status."""
    told: dict[str, Schema] = {}
    for status in sorted({problems.KINDS[code].status for code in codes}):
        here = [code for code in codes if problems.KINDS[code].status == status]
        kind = {"properties": {"type": {"enum": [problems.TYPE_BASE + code for code in here]}}}
        told[str(int(status))] = {
            "description": " ".join(f"`{code}`: {problems.KINDS[code].meaning}" for code in here),
            "content": {problems.MEDIA_TYPE: {"schema": {"allOf": [_schema(problems.ProblemDetails), kind]}}},
        } | ({"headers": _RETRY_AFTER} if {"Unavailable", "TooManyRequests"} & set(here) else {})
    return told


def _operation(
    method: str,
    id_: str,
    summary: str,
    responses: dict[str, Schema] | type,
    *codes: str,
    tag: str = "Tasks",
    **more: Any,
) -> Schema:
    """Return an operation with its success answers, or the type of the only one, and its problem types."""
    if not isinstance(responses, dict):
        responses = {"200": _answer(responses)}
    responses = responses | _problems(*codes)
    return {method: {"operationId": id_, "summary": summary, "responses": responses, "tags": [tag]} | more}


def _get(id_: str, summary: str, body: type, *codes: str, parameters: list[Schema], tag: str = "Tasks") -> Schema:
    return _operation("get", id_, summary, body, *codes, *_SERVER_PROBLEMS, tag=tag, parameters=parameters)


def _post(id_: str, summary: str, body: type, responses: dict[str, Schema] | type, *codes: str, **more: Any) -> Schema:
    asked = {"required": True, "content": {"application/json": {"schema": _schema(body)}}}
    codes += (*_BODY_PROBLEMS, *_SERVER_PROBLEMS)
    return _operation("post", id_, summary, responses, *codes, requestBody=asked, **more)


def _probe(id_: str, summary: str, responses: dict[str, Schema] | type) -> Schema:
    return _operation("get", id_, summary, responses, tag="Probes")


def _query(name: str, type_: Any, description: str, **more: Any) -> Schema:
    schema = _schema(type_) | more
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


def _path(name: str, type_: Any, description: str) -> Schema:
    return {"name": name, "in": "path", "required": True, "schema": _schema(type_), "description": description}


_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of the token file, or a Kubernetes ServiceAccount token with audience dtq.",
}
_LINKS: Final = {
    name: {"operationId": operation, "parameters": {"id": "$response.body#/id"}}
    for name, operation in (("task", "getTask"), ("events", "getEvents"), ("cancel", "cancelTask"))
}
_HEALTH: Final = {"200": _answer(bodies.Healthy), "503": _answer(bodies.Degraded)}
_TEXT: Final = {"200": {"description": "The exposition.", "content": {"text/plain": {"schema": _STRING}}}}
_ID: Final = [_path("id", UUID, "As POST /enqueue returned it.")]
_ENQUEUED_HEADERS: Final = {
    "Location": {"schema": _STRING, "required": True, "description": "Where the task is shown."},
    "Idempotency-Replayed": {
        "schema": {"type": "string", "enum": ["true"]},
        "description": "There when the task is that of an earlier request.",
    },
}

_PATHS: Final[dict[str, Schema]] = {
    "/": _probe("getService", "What this service is.", bodies.Service),
    "/healthz": _probe("getHealth", "Whether database and topology are as they should be.", _HEALTH),
    "/readyz": _probe("getReadiness", "Whether requests should be sent here: the database.", _HEALTH),
    "/livez": _probe("getLiveness", "Whether the process runs.", bodies.Healthy),
    "/metrics": _probe(
        "getMetrics", "Metrics, in Prometheus' text format; absent if they have a port of their own.", _TEXT
    ),
    "/openapi.json": _probe("getDocument", "This document.", {"200": _answer(dict, "It.")}),
    "/enqueue": _post(
        "enqueue",
        "Accept a task durably.",
        bodies.EnqueueBody,
        {"201": _answer(bodies.Enqueued, headers=_ENQUEUED_HEADERS, links=_LINKS)},
        *(
            "UnknownType",
            "InactiveType",
            "UnknownQueue",
            "InvalidPayload",
            "IdempotencyConflict",
            "OutcomeUnknown",
        ),
        description="A 2xx means that the task will run; a 503 means that nothing was left behind, unless it is "
        "`OutcomeUnknown`: then the same idempotency_key tells.",
    ),
    "/enqueue/bulk": _operation(
        "post",
        "enqueueBulk",
        f"Accept up to {ITEMS_MAX} tasks, each with its own result, or all of them or none.",
        bodies.BulkEnqueued,
        *("InvalidQuery", "BulkRefused", "OutcomeUnknown", *_BODY_PROBLEMS, *_SERVER_PROBLEMS),
        requestBody={
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "array",
                        "items": _schema(bodies.EnqueueBody),
                        "minItems": 1,
                        "maxItems": ITEMS_MAX,
                    }
                },
                "application/x-ndjson": {"schema": _STRING | {"description": "One task per line."}},
            },
        },
        parameters=[_query("all_or_none", bool, "If any item is refused, store nothing.")],
    ),
    "/tasks": _get(
        "listTasks",
        "One page of tasks, newest first.",
        bodies.Page,
        "InvalidQuery",
        parameters=[
            _query("limit", bodies.PageLimit, "Most tasks of the page."),
            _query("cursor", UUID, "next_cursor of the page before."),
            _query("status", bodies.Status, "Only tasks of that status."),
            _query("type", bodies.TypeName, "Only tasks of that type."),
            _query("queue", bodies.Text, "Only tasks of that queue."),
        ],
    ),
    "/tasks/{id}": _get("getTask", "One task.", bodies.Task, "NotFound", parameters=_ID),
    "/tasks/{id}/payload": _get("getPayload", "The payload of one task.", bodies.Payload, "NotFound", parameters=_ID),
    "/tasks/{id}/events": _get(
        "getEvents", "The history of one task, oldest event first.", bodies.Events, "NotFound", parameters=_ID
    ),
    "/tasks/{id}/cancel": _operation(
        "post",
        "cancelTask",
        "Stop a task.",
        {
            "200": _answer(bodies.Cancelled, "It will not run any more."),
            "202": _answer(bodies.Cancelled, "It runs; its worker is asked to stop it."),
        },
        *("NotFound", "AlreadyFinished", "OutcomeUnknown", *_SERVER_PROBLEMS),
        parameters=_ID,
    ),
    "/dlq/redrive": _post(
        "redrive",
        "Send failed tasks again, by id, by filter or all of them, each with its own attempt budget again.",
        bodies.RedriveBody,
        bodies.Redriven,
        "OutcomeUnknown",
    ),
    "/queues/{queue}/scaling": _get(
        "getScaling",
        "How many workers a queue wants; 503, never 0, when that is unknown.",
        bodies.ScalingHint,
        "NotFound",
        tag="Queues",
        parameters=[
            _path("queue", str, "Its name in the set."),
            _query("queue_set", str, "The queue's QueueSet.", default="default"),
        ],
    ),
}


def _authenticated(path: str, operation: Schema, *, secured: bool) -> Schema:
    """Return an operation with the answers that the authentication may give before it."""
    if not secured:
        operation = operation | {"responses": _problems("HostNotAllowed") | operation["responses"]}
    if path in OPEN_PATHS:
        return operation
    refusals = _problems("Unauthenticated", "Forbidden", "TooManyRequests", "Unavailable")
    refusals["401"]["headers"] = {
        "WWW-Authenticate": {"schema": _STRING, "required": True, "description": "What to send: Bearer."}
    }
    security: Schema = {"security": [{"bearer": []}]} if secured else {}
    return operation | {"responses": refusals | operation["responses"]} | security


@cache
def document(*, secured: bool = False) -> Schema:
    """Return the OpenAPI 3.1 document.

    Args:
        secured: whether this API authenticates callers (`DTQ_AUTH`).
    """
    paths = {
        path: {method: _authenticated(path, operation, secured=secured) for method, operation in operations.items()}
        for path, operations in _PATHS.items()
    }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dtq",
            "version": version("dtq"),
            "summary": "A Kubernetes-native distributed task queue.",
            "description": "Accepts tasks and answers questions about them. Unknown routes answer 404 `NotFound`, "
            "other methods 405 `MethodNotAllowed`.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "tags": [
            {"name": "Tasks", "description": "Enqueue, look at, cancel and redrive tasks."},
            {"name": "Queues", "description": "What scalers ask."},
            {"name": "Probes", "description": "What clusters, monitors and people ask."},
        ],
        "paths": paths,
        "components": {"schemas": _schemas()} | ({"securitySchemes": {"bearer": _BEARER}} if secured else {}),
    }


@cache
def text(*, secured: bool = False) -> bytes:
    """Return the document of a secured API as indented JSON, as in `docs/openapi.json`."""
    return msgspec.json.format(msgspec.json.encode(document(secured=secured)), indent=2) + b"\n"

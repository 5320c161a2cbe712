"""The OpenAPI document: the paths and their answers, for people and for schemathesis.

Tests compare the paths with the routes, and every answer that they get with the document.
"""

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from dtq.domain import limits
from dtq_api import problems
from dtq_api.auth.middleware import OPEN_PATHS
from dtq_api.openapi_schemas import SCHEMAS, STATUS, STRING, TEXT, TYPE, UUID, Schema, reference
from dtq_api.requests import PAGE_DEFAULT

_BODY_PROBLEMS: Final = ("InvalidBody", "RequestTimeout", "PayloadTooLarge", "UnsupportedMediaType")
_SERVER_PROBLEMS: Final = ("Internal", "Unavailable")
_RETRY_AFTER: Final = {"Retry-After": {"schema": {"type": "integer"}, "required": True, "description": "Seconds."}}


def _answer(description: str, schema: str, **more: Any) -> Schema:
    return {"description": description, "content": {"application/json": {"schema": reference(schema)}}} | more


def _problems(*codes: str) -> dict[str, Schema]:
    """Return the answers for these problem types, by status."""
    answers: dict[str, Schema] = {}
    for status in sorted({problems.KINDS[code].status for code in codes}):
        here = [code for code in codes if problems.KINDS[code].status == status]
        kind = {"properties": {"type": {"enum": [problems.TYPE_BASE + code for code in here]}}}
        answers[str(int(status))] = {
            "description": " ".join(f"`{code}`: {problems.KINDS[code].meaning}" for code in here),
            "content": {problems.MEDIA_TYPE: {"schema": {"allOf": [reference("Problem"), kind]}}},
        } | ({"headers": _RETRY_AFTER} if "Unavailable" in here else {})
    return answers


def _operation(
    id_: str, summary: str, answers: dict[str, Schema], *codes: str, body: str | None = None, **more: Any
) -> Schema:
    """Return an operation: its success answer and its problem types."""
    codes += (*_BODY_PROBLEMS, *_SERVER_PROBLEMS) if body else _SERVER_PROBLEMS
    operation = {"operationId": id_, "summary": summary, "responses": answers | _problems(*codes)} | more
    if body:
        content = {"application/json": {"schema": reference(body)}}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _probe(id_: str, summary: str, *, degrades: bool) -> Schema:
    answers = {"200": _answer("All is well.", "Healthy")}
    if degrades:
        answers["503"] = _answer("What is wrong, by part.", "Degraded")
    return {"operationId": id_, "summary": summary, "responses": answers, "tags": ["Probes"]}


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "required": False, "schema": schema, "description": description}


_ID: Final = {
    "name": "id",
    "in": "path",
    "required": True,
    "schema": UUID,
    "description": "As POST /enqueue returned it.",
}
_BEARER: Final = {
    "type": "http",
    "scheme": "bearer",
    "description": "A token of the token file, or a Kubernetes ServiceAccount token with audience dtq.",
}
_LINKS: Final = {
    name: {"operationId": operation, "parameters": {"id": "$response.body#/id"}}
    for name, operation in (("task", "getTask"), ("events", "getEvents"), ("cancel", "cancelTask"))
}
_PLAIN_TEXT: Final = {"text/plain": {"schema": STRING}}

_PATHS: Final[dict[str, Schema]] = {
    "/": {
        "get": {
            "operationId": "getService",
            "summary": "What this service is.",
            "responses": {"200": _answer("Its name and main routes.", "Service")},
            "tags": ["Probes"],
        }
    },
    "/healthz": {"get": _probe("getHealth", "Whether database and topology are as they should be.", degrades=True)},
    "/readyz": {"get": _probe("getReadiness", "Whether requests should be sent here: the database.", degrades=True)},
    "/livez": {"get": _probe("getLiveness", "Whether the process runs.", degrades=False)},
    "/metrics": {
        "get": {
            "operationId": "getMetrics",
            "summary": "Metrics, in Prometheus' text format.",
            "responses": {"200": {"description": "The exposition.", "content": _PLAIN_TEXT}},
            "tags": ["Probes"],
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "getDocument",
            "summary": "This document.",
            "responses": {
                "200": {"description": "It.", "content": {"application/json": {"schema": {"type": "object"}}}}
            },
            "tags": ["Probes"],
        }
    },
    "/enqueue": {
        "post": _operation(
            "enqueue",
            "Accept a task durably.",
            {
                "201": _answer(
                    "The task, stored and published; or the one that holds the idempotency key.",
                    "Enqueued",
                    headers={
                        "Location": {"schema": STRING, "required": True, "description": "Where the task is shown."},
                        "Idempotency-Replayed": {
                            "schema": {"type": "string", "enum": ["true"]},
                            "description": "There when the task is that of an earlier request.",
                        },
                    },
                    links=_LINKS,
                )
            },
            *("UnknownType", "InactiveType", "UnknownQueue", "InvalidPayload", "IdempotencyConflict", "OutcomeUnknown"),
            body="EnqueueRequest",
            description="A 2xx means that the task will run; a 503 means that nothing was left behind, unless it is "
            "`OutcomeUnknown`: then the same idempotency_key tells.",
            tags=["Tasks"],
        )
    },
    "/tasks": {
        "get": _operation(
            "listTasks",
            "One page of tasks, newest first.",
            {"200": _answer("The page.", "Page")},
            "InvalidQuery",
            parameters=[
                _query(
                    "limit",
                    {"type": "integer", "minimum": 1, "maximum": limits.PAGE_MAX, "default": PAGE_DEFAULT},
                    "Most tasks of the page.",
                ),
                _query("cursor", UUID, "next_cursor of the page before."),
                _query("status", STATUS, "Only tasks of that status."),
                _query("type", TYPE, "Only tasks of that type."),
                _query("queue", TEXT, "Only tasks of that queue."),
            ],
            tags=["Tasks"],
        )
    },
    "/tasks/{id}": {
        "get": _operation(
            "getTask",
            "One task.",
            {"200": _answer("The task.", "Task")},
            "NotFound",
            parameters=[_ID],
            tags=["Tasks"],
        )
    },
    "/tasks/{id}/payload": {
        "get": _operation(
            "getPayload",
            "The payload of one task.",
            {"200": _answer("The payload, as it was stored.", "Payload")},
            "NotFound",
            parameters=[_ID],
            tags=["Tasks"],
        )
    },
    "/tasks/{id}/events": {
        "get": _operation(
            "getEvents",
            "The history of one task, oldest event first.",
            {"200": _answer("Its events.", "Events")},
            "NotFound",
            parameters=[_ID],
            tags=["Tasks"],
        )
    },
    "/tasks/{id}/cancel": {
        "post": _operation(
            "cancelTask",
            "Stop a task.",
            {
                "200": _answer("It will not run any more.", "Cancelled"),
                "202": _answer("It runs; its worker is asked to stop it.", "Cancelled"),
            },
            *("NotFound", "AlreadyFinished", "OutcomeUnknown"),
            parameters=[_ID],
            tags=["Tasks"],
        )
    },
    "/dlq/redrive": {
        "post": _operation(
            "redrive",
            "Send failed tasks again, by id, by filter or all of them, each with its own attempt budget afresh.",
            {"200": _answer("What was sent again, or would be.", "Redriven")},
            "OutcomeUnknown",
            body="RedriveRequest",
            tags=["Tasks"],
        )
    },
    "/queues/{queue}/scaling": {
        "get": _operation(
            "getScaling",
            "How many workers a queue wants; 503, never 0, when that is unknown.",
            {"200": _answer("The hint.", "ScalingHint")},
            "NotFound",
            parameters=[
                {
                    "name": "queue",
                    "in": "path",
                    "required": True,
                    "schema": STRING,
                    "description": "Its name in the set.",
                },
                _query("queue_set", STRING | {"default": "default"}, "The queue's QueueSet."),
            ],
            tags=["Queues"],
        )
    },
}


def _behind_the_door(path: str, operation: Schema, *, secured: bool) -> Schema:
    """Return an operation with the answers that the authentication may give before it."""
    if path in OPEN_PATHS:
        return operation
    told = _problems("Unauthenticated", "Forbidden", "Unavailable")
    told["401"]["headers"] = {
        "WWW-Authenticate": {"schema": STRING, "required": True, "description": "What to send: Bearer."}
    }
    security: Schema = {"security": [{"bearer": []}]} if secured else {}
    return operation | {"responses": told | operation["responses"]} | security


@cache
def document(*, secured: bool = False) -> Schema:
    """Return the OpenAPI 3.1 document.

    Args:
        secured: whether this API authenticates callers (`DTQ_AUTH`).
    """
    paths = {
        path: {method: _behind_the_door(path, one, secured=secured) for method, one in operations.items()}
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
        "components": {"schemas": SCHEMAS} | ({"securitySchemes": {"bearer": _BEARER}} if secured else {}),
    }


@cache
def text(*, secured: bool = False) -> bytes:
    """Return the document of a secured API as indented JSON, as in `docs/openapi.json`."""
    return msgspec.json.format(msgspec.json.encode(document(secured=secured)), indent=2) + b"\n"

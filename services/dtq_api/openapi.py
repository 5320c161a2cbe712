"""The OpenAPI document: what the API promises, for people and for schemathesis.

Owns the document. A test compares its paths with the routes and its problem types with `problems.STATUS`.
"""

from functools import cache
from importlib.metadata import version
from typing import Any, Final

import msgspec

from dtq.domain import limits
from dtq.domain.manifests import TYPE_PATTERN
from dtq.domain.states import Event, TaskStatus

_STRING: Final = {"type": "string"}
_UUID: Final = {"type": "string", "format": "uuid"}
_TIME: Final = {"type": "string", "format": "date-time"}
_COUNT: Final = {"type": "integer", "minimum": 0}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(
    required: dict[str, Any], optional: dict[str, Any] | None = None, *, closed: bool = False
) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "type": "object",
        "properties": required | (optional or {}),
        "required": list(required),
    }
    return shape | {"additionalProperties": False} if closed else shape


_STATUS: Final = {"type": "string", "enum": [str(status) for status in TaskStatus]}
_TYPE: Final = {"type": "string", "pattern": TYPE_PATTERN, "maxLength": limits.TYPE_CHARS_MAX}
_ROW: Final = {
    "id": _UUID,
    "type": _STRING,
    "queue": _STRING,
    "status": _STATUS,
    "attempts": _COUNT,
    "max_attempts": _COUNT,
    "last_error": _or_null(_STRING),
    "created_at": _TIME,
    "updated_at": _TIME,
}
_SCHEMAS: Final = {
    "EnqueueRequest": _object(
        {"type": _TYPE, "payload": {"description": "Any JSON but null; must satisfy the type's payloadSchema."}},
        {
            "queue": _or_null({"type": "string", "description": "One of the queue set's queues."}),
            "max_attempts": _or_null({"type": "integer", "minimum": 1, "maximum": limits.ATTEMPTS_MAX}),
            "idempotency_key": _or_null(
                {"type": "string", "minLength": 1, "maxLength": limits.IDEMPOTENCY_KEY_CHARS_MAX}
            ),
            "run_at": _or_null(_TIME | {"description": "Not before; at most a year ahead."}),
        },
        closed=True,
    ),
    "Enqueued": _object({"id": _UUID, "status": _STATUS, "queue": _STRING}),
    "TaskRow": _object(_ROW),
    "Task": _object(
        _ROW
        | {
            "result": {"description": "What the handler returned."},
            "queue_set": _STRING,
            "run_at": _TIME,
            "crashes": _COUNT,
            "redrives": _COUNT,
            "cancel_requested_at": _or_null(_TIME),
            "dead_lettered_at": _or_null(_TIME),
        }
    ),
    "Page": _object(
        {"tasks": {"type": "array", "items": {"$ref": "#/components/schemas/TaskRow"}}, "next_cursor": _or_null(_UUID)}
    ),
    "Events": _object(
        {
            "events": {
                "type": "array",
                "items": _object(
                    {
                        "event": {"type": "string", "enum": [str(event) for event in Event]},
                        "note": _or_null(_STRING),
                        "at": _TIME,
                        "attempt": _or_null(_COUNT),
                        "worker_id": _or_null(_UUID),
                    }
                ),
            }
        }
    ),
    "Cancelled": _object({"id": _UUID, "status": _STATUS}),
    "RedriveRequest": _object(
        {},
        {
            "ids": _or_null({"type": "array", "items": _UUID, "minItems": 1, "maxItems": 1000}),
            "type": _or_null(_STRING),
            "queue": _or_null(_STRING),
            "failed_before": _or_null(_TIME),
            "limit": {"type": "integer", "minimum": 1, "maximum": limits.REDRIVE_MAX, "default": 100},
            "dry_run": {"type": "boolean", "default": False},
        },
        closed=True,
    ),
    "Redriven": _object(
        {
            "dry_run": {"type": "boolean"},
            "matched": _COUNT,
            "redriven": _COUNT,
            "ids": {"type": "array", "items": _UUID},
        }
    ),
    "ScalingHint": _object(
        {
            "queue_set": _STRING,
            "queue": _STRING,
            "backlog": _COUNT,
            "ready": _COUNT,
            "running": _COUNT,
            "desiredReplicas": _COUNT,
            "asOf": _TIME,
        }
    ),
    "Health": _object({"status": {"type": "string", "enum": ["ok", "degraded"]}}),
    "Problem": _object(
        {
            "type": {"type": "string", "format": "uri"},
            "title": _STRING,
            "status": {"type": "integer"},
            "detail": _STRING,
            "error": {"type": "string", "description": "The same as detail."},
        },
        {"errors": {"type": "array", "items": _object({"path": _STRING, "message": _STRING})}},
    ),
}


def _answer(description: str, schema: str | None = None, media_type: str = "application/json") -> dict[str, Any]:
    if schema is None:
        return {"description": description}
    return {
        "description": description,
        "content": {media_type: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _problem(description: str) -> dict[str, Any]:
    return _answer(description, "Problem", "application/problem+json")


_UNAVAILABLE: Final = {
    "503": _problem("Postgres or RabbitMQ does not answer; nothing was left behind. Try again after Retry-After.")
    | {"headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}}}
}
_BODY_PROBLEMS: Final = {
    "400": _problem("The body is wrong, or the type, queue or payload is not allowed."),
    "408": _problem("The body did not arrive in time."),
    "413": _problem("The body or payload is too large."),
    "415": _problem("The body is not plain application/json."),
}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _UUID}


def _body(schema: str) -> dict[str, Any]:
    return {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _query(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def _plain(summary: str, *, degraded: bool = False) -> dict[str, Any]:
    responses = {"200": _answer("As it should be.", "Health" if degraded else None)}
    if degraded:
        responses["503"] = _answer("What is wrong, by part.", "Health")
    return {"get": {"summary": summary, "responses": responses}}


_PATHS: Final = {
    "/": _plain("What this service is."),
    "/healthz": _plain("Database and topology.", degraded=True),
    "/readyz": _plain("Whether requests should be sent here.", degraded=True),
    "/livez": _plain("Whether the process runs.", degraded=True),
    "/metrics": _plain("Prometheus exposition."),
    "/openapi.json": _plain("This document."),
    "/enqueue": {
        "post": {
            "summary": "Accept a task durably.",
            "description": "A 2xx means that the task will run; a 503 means that nothing was left behind.",
            "requestBody": _body("EnqueueRequest"),
            "responses": {
                "201": _answer("Stored and published, or the task that holds the idempotency key.", "Enqueued")
                | {
                    "headers": {
                        "Location": {"schema": _STRING},
                        "Idempotency-Replayed": {"schema": {"type": "string", "enum": ["true"]}},
                    },
                    "links": {
                        "task": {"operationId": "getTask", "parameters": {"id": "$response.body#/id"}},
                        "events": {"operationId": "getEvents", "parameters": {"id": "$response.body#/id"}},
                        "cancel": {"operationId": "cancelTask", "parameters": {"id": "$response.body#/id"}},
                    },
                },
                "409": _problem("The idempotency key belongs to another type or payload."),
            }
            | _BODY_PROBLEMS
            | _UNAVAILABLE,
        }
    },
    "/tasks": {
        "get": {
            "summary": "One page of tasks, newest first.",
            "parameters": [
                _query("limit", {"type": "integer", "minimum": 1, "maximum": limits.PAGE_MAX, "default": 50}),
                _query("cursor", _UUID),
                _query("status", _STATUS),
                _query("type", _TYPE),
                _query("queue", _STRING),
            ],
            "responses": {"200": _answer("The page.", "Page"), "400": _problem("The query is wrong.")} | _UNAVAILABLE,
        }
    },
    "/tasks/{id}": {
        "get": {
            "operationId": "getTask",
            "summary": "One task.",
            "parameters": [_ID],
            "responses": {"200": _answer("The task.", "Task"), "404": _problem("No such task.")} | _UNAVAILABLE,
        }
    },
    "/tasks/{id}/events": {
        "get": {
            "operationId": "getEvents",
            "summary": "The history of one task.",
            "parameters": [_ID],
            "responses": {"200": _answer("Its events.", "Events"), "404": _problem("No such task.")} | _UNAVAILABLE,
        }
    },
    "/tasks/{id}/cancel": {
        "post": {
            "operationId": "cancelTask",
            "summary": "Stop a task.",
            "parameters": [_ID],
            "responses": {
                "200": _answer("It never ran and never will.", "Cancelled"),
                "202": _answer("It runs; its worker was asked to stop it.", "Cancelled"),
                "404": _problem("No such task."),
                "409": _problem("It is finished already."),
            }
            | _UNAVAILABLE,
        }
    },
    "/queues/{queue}/scaling": {
        "get": {
            "summary": "How many workers a queue wants; 503, never 0, when unknown.",
            "parameters": [
                {"name": "queue", "in": "path", "required": True, "schema": _STRING},
                _query("queue_set", _STRING | {"default": "default"}),
            ],
            "responses": {"200": _answer("The hint.", "ScalingHint"), "404": _problem("No such queue.")} | _UNAVAILABLE,
        }
    },
    "/dlq/redrive": {
        "post": {
            "summary": "Send failed tasks again, by id or by filter, with a fresh attempt budget.",
            "requestBody": _body("RedriveRequest"),
            "responses": {"200": _answer("What was sent, or would be.", "Redriven")} | _BODY_PROBLEMS | _UNAVAILABLE,
        }
    },
}


@cache
def document() -> dict[str, Any]:
    """Return the OpenAPI 3.1 document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dtq",
            "version": version("dtq"),
            "description": "Accepts tasks and answers questions about them.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "paths": _PATHS,
        "components": {"schemas": _SCHEMAS},
    }


@cache
def text() -> bytes:
    """Return the document as indented JSON, as it stands in `docs/openapi.json`."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"

"""The schemas of the OpenAPI document: the shape of every body.

What a schema forbids, `requests` refuses.
"""

from typing import Any, Final

from dtq.domain import limits
from dtq.domain.manifests import TYPE_PATTERN
from dtq.domain.states import Event, TaskStatus
from dtq_api import problems
from dtq_api.requests import REDRIVE_DEFAULT, REDRIVE_IDS_MAX

Schema = dict[str, Any]

STRING: Final[Schema] = {"type": "string"}
UUID: Final[Schema] = {"type": "string", "format": "uuid"}
TIME: Final[Schema] = {"type": "string", "format": "date-time"}
TEXT: Final[Schema] = STRING | {"pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
"""Text without control characters."""
COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
STATUS: Final[Schema] = {"type": "string", "enum": [str(status) for status in TaskStatus]}
TYPE: Final[Schema] = {"type": "string", "pattern": TYPE_PATTERN, "maxLength": limits.TYPE_CHARS_MAX}


def or_null(schema: Schema) -> Schema:
    """Return a schema that also allows null."""
    return {"anyOf": [schema, {"type": "null"}]}


def reference(name: str) -> Schema:
    """Return a reference to one of SCHEMAS."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: Schema, optional: Schema | None = None, *, closed: bool = False, **more: Any) -> Schema:
    shape: Schema = {"type": "object", "properties": required | (optional or {}), "required": list(required)} | more
    return shape | {"additionalProperties": False} if closed else shape


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items} | more


_ROW: Final[Schema] = {
    "id": UUID,
    "type": STRING,
    "queue": STRING,
    "status": STATUS,
    "attempts": COUNT,
    "max_attempts": COUNT,
    "last_error": or_null(STRING),
    "created_at": TIME,
    "updated_at": TIME,
}
_EVENT: Final = _object(
    {
        "event": {"type": "string", "enum": [str(event) for event in Event]},
        "note": or_null(STRING | {"description": "Why; of a RETRY, FAILED or DLQ its last_error."}),
        "at": TIME,
        "attempt": or_null(COUNT),
        "worker_id": or_null(UUID),
    }
)
_NULL: Final[Schema] = {"type": "null"}
_DRY_RUN: Final[Schema] = {"type": "boolean", "default": False, "description": "Only tell what would be sent again."}
_FALSE: Final[Schema] = {"const": False}
_REDRIVE_LIMIT: Final[Schema] = or_null(
    {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.REDRIVE_MAX,
        "description": f"Most tasks to send again, oldest failure first; else {REDRIVE_DEFAULT}.",
    }
)

SCHEMAS: Final[dict[str, Schema]] = {
    "Service": _object({"service": STRING}),
    "EnqueueRequest": _object(
        {
            "type": TYPE | {"description": "The name of a TaskType."},
            "payload": {
                "not": {"type": "null"},
                "description": "Any JSON but null; must satisfy the type's payloadSchema.",
            },
        },
        {
            "queue": or_null(STRING | {"description": "One of the queue set's queues; else the type's own."}),
            "max_attempts": or_null(
                {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": limits.ATTEMPTS_MAX,
                    "description": "How often the task is tried; else as its type says.",
                }
            ),
            "idempotency_key": or_null(
                {
                    **TEXT,
                    "minLength": 1,
                    "maxLength": limits.IDEMPOTENCY_KEY_CHARS_MAX,
                    "description": "Of the type: the same key and payload again are answered with the first task.",
                }
            ),
            "run_at": or_null(TIME | {"description": "Not before, with a zone; at most a year ahead."}),
        },
        closed=True,
        example={"type": "email.send.v1", "payload": {"to": "ada@example.com"}, "idempotency_key": "welcome-ada"},
    ),
    "Enqueued": _object({"id": UUID, "status": STATUS, "queue": STRING}),
    "TaskRow": _object(_ROW),
    "Task": _object(
        _ROW
        | {
            "queue_set": STRING,
            "run_at": TIME,
            "crashes": COUNT | {"description": "Workers that this task took down while it ran alone."},
            "redrives": COUNT | {"description": "How often a person sent it again."},
            "snoozes": COUNT | {"description": "How often its handler put it off since, at no cost of attempts."},
            "cancel_requested_at": or_null(TIME),
            "dead_lettered_at": or_null(TIME),
        },
        {
            "result": {"description": "What the handler returned; null until it did; needs the right read-payload."},
            "last_traceback": or_null(
                STRING | {"description": "Where the handler raised last_error; needs the right read-payload."}
            ),
        },
    ),
    "Payload": _object({"payload": {"description": "Any JSON but null."}}),
    "Page": _object(
        {
            "tasks": _array(reference("TaskRow"), maxItems=limits.PAGE_MAX),
            "next_cursor": or_null(UUID | {"description": "The cursor of the next page, even after a short one."}),
        }
    ),
    "Events": _object({"events": _array(_EVENT)}),
    "Cancelled": _object({"id": UUID, "status": STATUS}),
    "RedriveRequest": {
        "anyOf": [
            _object(
                {"ids": _array(UUID, minItems=1, maxItems=REDRIVE_IDS_MAX)},
                {"dry_run": _DRY_RUN, "all": _FALSE}
                | dict.fromkeys(("type", "queue", "failed_before", "limit"), _NULL),
                closed=True,
                title="By id",
            ),
            _object(
                {},
                {
                    "ids": _NULL,
                    "type": or_null(TYPE),
                    "queue": or_null(TEXT),
                    "failed_before": or_null(TIME),
                    "limit": _REDRIVE_LIMIT,
                    "dry_run": _DRY_RUN,
                    "all": _FALSE,
                },
                closed=True,
                title="By filter",
                anyOf=[
                    {"properties": {name: schema}, "required": [name]}
                    for name, schema in (("type", TYPE), ("queue", TEXT), ("failed_before", TIME))
                ],
            ),
            _object(
                {"all": {"const": True, "description": "Every failed task, oldest failure first."}},
                {"limit": _REDRIVE_LIMIT, "dry_run": _DRY_RUN}
                | dict.fromkeys(("ids", "type", "queue", "failed_before"), _NULL),
                closed=True,
                title="All",
            ),
        ],
        "example": {"type": "email.send.v1", "limit": 10, "dry_run": True},
    },
    "Redriven": _object({"dry_run": {"type": "boolean"}, "matched": COUNT, "redriven": COUNT, "ids": _array(UUID)}),
    "ScalingHint": _object(
        {
            "queue_set": STRING,
            "queue": STRING,
            "backlog": COUNT | {"description": "Ready and running tasks."},
            "ready": COUNT | {"description": "Tasks that are due and that no worker has claimed; 10,000 at most."},
            "running": COUNT,
            "desiredReplicas": COUNT,
            "asOf": TIME,
        }
    ),
    "Healthy": _object({"status": {"const": "ok"}}, closed=True),
    "Degraded": _object(
        {"status": {"const": "degraded"}},
        {
            "db": STRING | {"description": "What is wrong with Postgres."},
            "rmq": STRING | {"description": "… RabbitMQ."},
        },
        closed=True,
    )
    | {
        "patternProperties": {
            "^queue_set/": STRING | {"description": "… the topology of that queue set; the others are not concerned."}
        }
    },
    "Problem": _object(
        {
            "type": {"type": "string", "enum": [problems.TYPE_BASE + code for code in problems.KINDS]},
            "title": STRING,
            "status": {"type": "integer"},
            "detail": STRING | {"description": "What is wrong and what to do about it."},
            "error": STRING | {"description": "The same as detail."},
        },
        {
            "errors": _array(
                _object({"path": STRING, "message": STRING}),
                description="Every single mistake, where there are several.",
            )
        },
        description="Problem details (RFC 9457).",
    ),
}
"""Every schema of the document, by name."""

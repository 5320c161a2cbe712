"""The HTTP routes: paths, status codes and headers.

The rules are in `requests`, `enqueue` and the SQL functions.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.limits import BULK_BYTES_MAX
from dtq.domain.states import TaskStatus
from dtq.runtime import failpoints
from dtq.runtime.metrics import ApiMetrics
from dtq.runtime.probes import Health, health_response, metrics_response
from dtq_api import bodies, openapi, problems, requests
from dtq_api.auth.authenticator import Authenticator, NoAuthentication
from dtq_api.auth.middleware import Admission, AuthenticationMiddleware, caller_of, permissions_of
from dtq_api.auth.policy import Rights, Verb
from dtq_api.bulk import BulkEnqueue, items_of, results_of
from dtq_api.caller_limits import CallerLimits
from dtq_api.catalog import CatalogCache
from dtq_api.enqueue_route import JSON, NAME, NDJSON, PATH, BodyReader, EnqueueRoute, media_type_of
from dtq_api.response_metrics import ResponseMetricsMiddleware
from dtq_api.scaling import ScalingHints
from dtq_db.pages import FailedFilter
from dtq_db.tasks import TaskRow, TaskStore

_audit = structlog.get_logger("dtq.audit")
EVENTS_MAX: Final = 1_000
"""Most events shown for one task: 20 attempts write far fewer."""
SERVICE: Final = bodies.Service(
    service="dtq",
    enqueue="POST /enqueue",
    task="GET /tasks/{id}",
    openapi="GET /openapi.json",
    health="GET /healthz",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The services that the routes use.

    Attributes:
        registry: the metrics that `GET /metrics` shows; None if a port of their own serves them.
        after_redrive: called with the queue sets whose dead letter queue holds spent copies now.
    """

    catalog: CatalogCache
    tasks: TaskStore
    scaling: ScalingHints
    metrics: ApiMetrics
    registry: CollectorRegistry | None
    health: Health
    ready: Health
    after_redrive: Callable[[set[str]], None]
    authenticator: Authenticator
    limits: CallerLimits
    admission: Admission
    bodies: BodyReader
    enqueue_route: EnqueueRoute
    bulk: BulkEnqueue


def build(parts: Parts) -> Starlette:
    """Return the application."""
    routes = _Routes(parts)
    app = Starlette(
        routes=[
            Route("/", routes.index, methods=["GET"]),
            Route("/healthz", routes.healthz, methods=["GET"]),
            Route("/readyz", routes.readyz, methods=["GET"]),
            Route("/livez", routes.livez, methods=["GET"]),
            *([] if parts.registry is None else [Route("/metrics", routes.metrics, methods=["GET"])]),
            Route("/openapi.json", routes.openapi, methods=["GET"]),
            Route(PATH, parts.enqueue_route, methods=["POST"], name=NAME),
            Route("/enqueue/bulk", routes.enqueue_bulk, methods=["POST"]),
            Route("/tasks", routes.list_tasks, methods=["GET"]),
            Route("/tasks/{id}", routes.get_task, methods=["GET"]),
            Route("/tasks/{id}/payload", routes.get_payload, methods=["GET"]),
            Route("/tasks/{id}/events", routes.get_events, methods=["GET"]),
            Route("/tasks/{id}/cancel", routes.cancel, methods=["POST"]),
            Route("/queues/{queue}/scaling", routes.scaling, methods=["GET"]),
            Route("/dlq/redrive", routes.redrive, methods=["POST"]),
        ],
        middleware=[
            Middleware(ResponseMetricsMiddleware, responses=parts.metrics.responses),
            Middleware(AuthenticationMiddleware, admission=parts.admission),
        ],
        exception_handlers={
            Rejected: problems.on_rejected,
            Unavailable: problems.on_rejected,
            HTTPException: problems.on_http_error,
            Exception: problems.on_bug,
        },
    )
    app.router.redirect_slashes = False  # a path with an extra slash is refused, not redirected
    for route in app.routes:
        if isinstance(route, Route):
            # A bug's first 500 must be an increase; otherwise no alert would fire.
            parts.metrics.responses.labels(route.name, HTTPStatus.INTERNAL_SERVER_ERROR.value)
    return app


class _Routes:
    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    async def index(self, _: Request) -> Response:
        if self._parts.registry is None:
            return _json(SERVICE)
        return _json(msgspec.structs.replace(SERVICE, metrics="GET /metrics"))

    async def healthz(self, _: Request) -> Response:
        return self._health_response(await self._parts.health())

    async def readyz(self, _: Request) -> Response:
        return self._health_response(await self._parts.ready())

    def _health_response(self, wrong: dict[str, str]) -> Response:
        # The probes need no token, so any client that reaches the API can read the answer; the log has the reasons.
        return health_response(wrong, detailed=isinstance(self._parts.authenticator, NoAuthentication))

    async def livez(self, _: Request) -> Response:
        return health_response({})

    async def metrics(self, request: Request) -> Response:
        permissions_of(request).require(Verb.METRICS)
        assert self._parts.registry is not None, "the route exists only with a registry"
        return metrics_response(self._parts.registry)

    async def openapi(self, _: Request) -> Response:
        return Response(
            openapi.text(secured=not isinstance(self._parts.authenticator, NoAuthentication)),
            media_type="application/json",
        )

    async def enqueue_bulk(self, request: Request) -> Response:
        rights = permissions_of(request)
        rights.require(Verb.ENQUEUE)
        all_or_none = requests.parse_all_or_none(request.query_params)
        headers = request.scope["headers"]
        async with self._parts.bulk.turns.turn(caller_of(request.scope)):
            text = await self._parts.bodies.read(
                headers, request.receive, bytes_max=BULK_BYTES_MAX, media_types=(JSON, NDJSON)
            )
            items = items_of(text, lines=media_type_of(headers) == NDJSON)
            self._parts.admission.count(request.scope, len(items))
            enqueue = self._parts.bulk.all_or_none if all_or_none else self._parts.bulk.each
            answer = results_of(await enqueue(items, rights))
            return _json(answer)

    async def list_tasks(self, request: Request) -> Response:
        rights = permissions_of(request)
        asked, limit = requests.parse_page(request.query_params)
        rights.require(Verb.READ, asked.type)
        chosen = replace(asked, types=rights.types(Verb.READ, self._parts.catalog.current.types))
        async with self._parts.limits.lists.turn(caller_of(request.scope)):
            found = await self._parts.tasks.page(chosen, limit)
        return _json(bodies.Page(tasks=[bodies.TaskRow(**row) for row in found.rows], next_cursor=found.next))

    async def get_task(self, request: Request) -> Response:
        id_, rights = _id(request), permissions_of(request)
        row = await self._parts.tasks.get(id_)
        if row is None or not rights.may(Verb.READ, row["type"]):
            raise _not_found(id_)
        shown = bodies.Task(**dict(row) | {"result": msgspec.Raw((row["result"] or "null").encode())})
        if not rights.may(Verb.READ_PAYLOAD, row["type"]):
            shown.result = shown.last_traceback = msgspec.UNSET
        return _json(shown)

    async def get_payload(self, request: Request) -> Response:
        id_, rights = _id(request), permissions_of(request)
        row = await self._parts.tasks.payload(id_)
        self._check(id_, row, rights, Verb.READ)
        assert row is not None
        rights.require(Verb.READ_PAYLOAD, row["type"])
        return _json(bodies.Payload(payload=msgspec.Raw(row["payload"].encode())))

    async def get_events(self, request: Request) -> Response:
        id_, rights = _id(request), permissions_of(request)
        if not rights.every(Verb.READ):
            await self._find(id_, rights, Verb.READ)
        rows = await self._parts.tasks.events(id_, EVENTS_MAX)
        if not rows and await self._parts.tasks.get(id_) is None:
            raise _not_found(id_)
        return _json(bodies.Events(events=[bodies.TaskEvent(**dict(row)) for row in rows]))

    async def cancel(self, request: Request) -> Response:
        id_, rights = _id(request), permissions_of(request)
        if not rights.every(Verb.CANCEL):
            await self._find(id_, rights, Verb.CANCEL)
        row = await self._parts.tasks.cancel(id_)
        await failpoints.hit("cancel.committed")
        if row is None:
            raise _not_found(id_)
        if row["requested"] and row["status"] == TaskStatus.CANCELLED:
            self._parts.metrics.cancelled.inc()
        _audit.info("cancel", caller=rights.caller.name, task_id=str(id_), status=row["status"], done=row["requested"])
        if not row["requested"]:
            raise Rejected("AlreadyFinished", f"task {id_} is {row['status']} and can no longer be cancelled")
        cancelled = bodies.Cancelled(id=row["id"], status=row["status"])
        return _json(cancelled, status=202 if row["status"] == TaskStatus.RUNNING else 200)

    async def scaling(self, request: Request) -> Response:
        permissions_of(request).require(Verb.SCALE_READ)
        queue_set = request.query_params.get("queue_set", "default")
        return _json(await self._parts.scaling.hint(queue_set, request.path_params["queue"]))

    async def redrive(self, request: Request) -> Response:
        rights = permissions_of(request)
        rights.require(Verb.REDRIVE)
        asked = requests.parse_redrive(await self._parts.bodies.read(request.scope["headers"], request.receive))
        rights.require(Verb.REDRIVE, asked.type)
        types = rights.types(Verb.REDRIVE, self._parts.catalog.current.types)
        ids = asked.ids
        if ids is None:
            chosen = FailedFilter(
                type=asked.type,
                queue=asked.queue,
                failed_before=requests.parse_time(asked.failed_before),
                types=types,
            )
            async with self._parts.limits.lists.turn(caller_of(request.scope)):
                ids = await self._parts.tasks.failed(chosen, asked.limit or bodies.REDRIVE_DEFAULT)
        elif types is not None:
            ids = sorted(await self._parts.tasks.still_failed(ids, types))
        if asked.dry_run:
            still = await self._parts.tasks.still_failed(ids)
            return _json(bodies.Redriven(dry_run=True, matched=len(still), redriven=0, ids=sorted(still)))
        try:
            redriven = await self._parts.tasks.redrive(ids)
            await failpoints.hit("redrive.committed")
        except Unavailable:
            # Some tasks may wait again: their dead letters are then spent, wherever they are.
            self._parts.after_redrive(set(self._parts.catalog.current.queue_sets))
            raise
        self._parts.metrics.redriven.inc(len(redriven))
        self._parts.after_redrive(set(redriven.values()))
        _audit.info(
            "redrive",
            caller=rights.caller.name,
            tasks=len(redriven),
            by="all" if asked.all else "filter" if asked.ids is None else "ids",
            type=asked.type,
            queue=asked.queue,
            failed_before=asked.failed_before,
        )
        done = len(redriven)
        return _json(bodies.Redriven(dry_run=False, matched=done, redriven=done, ids=sorted(redriven)))

    async def _find(self, id_: UUID, rights: Rights, verb: Verb) -> None:
        """Raise `Forbidden` unless the caller may perform `verb`, and `NotFound` if they may not even read the task."""
        self._check(id_, await self._parts.tasks.get(id_), rights, verb)

    @staticmethod
    def _check(id_: UUID, row: TaskRow | None, rights: Rights, verb: Verb) -> None:
        # Callers without `read` get 404, so that ids cannot be probed.
        if row is None or not (rights.may(verb, row["type"]) or rights.may(Verb.READ, row["type"])):
            raise _not_found(id_)
        rights.require(verb, row["type"])


def _json(value: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status_code=status, media_type="application/json", headers=headers)


def _id(request: Request) -> UUID:
    text = request.path_params["id"]
    id_ = requests.parse_id(text)
    if id_ is None:
        raise Rejected("NotFound", "not found: a task id is a UUID such as POST /enqueue returns")
    return id_


def _not_found(id_: UUID) -> Rejected:
    return Rejected("NotFound", f"not found: no task {id_}; finished tasks are deleted after their type's retention")

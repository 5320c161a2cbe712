"""Maps errors to HTTP answers: RFC 9457 problem details that also carry the origin's `error`.

No answer shows a stack trace, a payload or a connection string.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Final

import msgspec
import structlog
from msgspec import Meta
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dtq.domain.errors import Problem, Rejected, Unavailable

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "https://dtq.dev/problems/"


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem type: its HTTP status and its meaning."""

    status: int
    meaning: str


KINDS: Final[Mapping[str, Kind]] = {
    "InvalidBody": Kind(400, "The body is not valid JSON, or a field is missing, unknown or invalid."),
    "InvalidQuery": Kind(400, "A query parameter is unknown or out of range."),
    "UnknownType": Kind(400, "No TaskType of that name is declared."),
    "InactiveType": Kind(400, "The TaskType refuses new tasks."),
    "UnknownQueue": Kind(400, "The QueueSet of the type has no such queue."),
    "InvalidPayload": Kind(400, "The payload does not match the type's schema, or cannot be stored."),
    "BulkRefused": Kind(400, "An item of an all_or_none request is refused; errors names each. Nothing was stored."),
    "Unauthenticated": Kind(401, "The token is missing or invalid."),
    "Forbidden": Kind(403, "The caller lacks a permission; the detail names it, and who grants it."),
    "NotFound": Kind(404, "The route, task, queue set or queue does not exist, or the caller may not see it."),
    "MethodNotAllowed": Kind(405, "The route does not support this method; see the header Allow."),
    "RequestTimeout": Kind(408, "The body did not arrive in time."),
    "IdempotencyConflict": Kind(409, "The idempotency key belongs to a task of this type with another payload."),
    "AlreadyFinished": Kind(409, "The task has already ended and cannot be cancelled."),
    "PayloadTooLarge": Kind(413, "The body, or the payload for its type, is too large."),
    "UnsupportedMediaType": Kind(415, "The body is not application/json, or it is compressed."),
    "HostNotAllowed": Kind(421, "Without authentication, the header Host must name this machine."),
    "TooManyRequests": Kind(
        429,
        "The caller sends too many requests or lists, or too many payloads of the type wait for their check. Try again"
        " after Retry-After seconds.",
    ),
    "Internal": Kind(500, "An internal error of dtq; its log has the traceback."),
    "Unavailable": Kind(
        503,
        "Postgres, RabbitMQ or the Kubernetes API, which reviews tokens, does not answer, or RabbitMQ refuses the queue"
        " set. Nothing was changed: try again after Retry-After seconds.",
    ),
    "OutcomeUnknown": Kind(
        503,
        "Postgres's answer was lost: the write may have taken effect. Try again with the same idempotency_key.",
    ),
}
"""Every problem type, by code; the OpenAPI document and docs/http-api.md list the same types."""


class ProblemDetails(msgspec.Struct):
    """Problem details (RFC 9457)."""

    type: Annotated[str, Meta(extra_json_schema={"enum": [TYPE_BASE + code for code in KINDS]})]
    title: str
    status: int
    detail: Annotated[str, Meta(description="What is wrong and what to do about it.")]
    error: Annotated[str, Meta(description="The same as detail.")]
    errors: Annotated[
        tuple[Problem, ...] | msgspec.UnsetType,
        Meta(description="Every single mistake, where there are several."),
    ] = msgspec.UNSET


_ROUTER: Final[Mapping[int, tuple[str, str]]] = {
    404: ("NotFound", "not found: no such route; GET /openapi.json lists the routes"),
    405: ("MethodNotAllowed", "the route does not support this method: see the header Allow"),
}
_HEADERS: Final[Mapping[str, Mapping[str, str]]] = {
    # The rest of a slow body is not awaited.
    "RequestTimeout": {"Connection": "close"},
    "Unauthenticated": {"WWW-Authenticate": 'Bearer realm="dtq"'},
}
_log = structlog.get_logger(__name__)


def problem(
    code: str,
    detail: str,
    *,
    problems: tuple[Problem, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem document."""
    body = _details(code, detail, problems)
    return Response(msgspec.json.encode(body), status_code=body.status, media_type=MEDIA_TYPE, headers=headers)


def details_of(error: Rejected | Unavailable) -> ProblemDetails:
    """Return the problem details of one item of a bulk request."""
    if isinstance(error, Unavailable):
        return _details("OutcomeUnknown" if error.in_doubt else "Unavailable", str(error))
    return _details(error.code, str(error), error.problems)


def _details(code: str, detail: str, problems: tuple[Problem, ...] = ()) -> ProblemDetails:
    status = KINDS[code].status
    return ProblemDetails(
        type=TYPE_BASE + code,
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        error=detail,
        errors=problems or msgspec.UNSET,
    )


def inactive(type_: str) -> Rejected:
    """Return the refusal of a task whose type takes no more."""
    return Rejected("InactiveType", f"type {type_!r} is not active: its TaskType refuses new tasks")


def of_error(error: Rejected | Unavailable, *, writes: bool = True) -> Response:
    """Return the answer to an expected error; a request that only reads leaves nothing in doubt."""
    if isinstance(error, Unavailable):
        code = "OutcomeUnknown" if error.in_doubt and writes else "Unavailable"
        return problem(code, str(error), headers={"Retry-After": str(error.retry_after_seconds)})
    headers = _HEADERS.get(error.code)
    if error.retry_after_seconds is not None:
        headers = {"Retry-After": str(error.retry_after_seconds)}
    return problem(error.code, str(error), problems=error.problems, headers=headers)


async def on_rejected(request: Request, error: Exception) -> Response:
    """Answer `Rejected` and `Unavailable`."""
    assert isinstance(error, Rejected | Unavailable)
    return of_error(error, writes=request.method == "POST")


async def on_http_error(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    code, detail = _ROUTER[error.status_code]
    return problem(code, detail, headers=error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer an unexpected error, and log it with its traceback."""
    return of_bug(request.url.path, error)


def of_bug(path: str, error: Exception) -> Response:
    """Return the answer to an unexpected error, and log it with its traceback."""
    _log.error("request crashed", path=path, exc_info=error)
    # The server then closes the connection, so tell the client.
    return problem("Internal", "an internal error of dtq: its log has the traceback", headers={"Connection": "close"})

"""Errors as clients see them: RFC 9457 problem details that still carry the origin's `error`.

Owns the mapping from errors to HTTP. Must never show a stack trace, a payload or a connection string.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dtq.domain.errors import Problem, Rejected, Unavailable

MEDIA_TYPE: Final = "application/problem+json"
TYPE_BASE: Final = "https://dtq.dev/problems/"
STATUS: Final[Mapping[str, HTTPStatus]] = {
    "InvalidBody": HTTPStatus.BAD_REQUEST,
    "InvalidQuery": HTTPStatus.BAD_REQUEST,
    "UnknownType": HTTPStatus.BAD_REQUEST,
    "InactiveType": HTTPStatus.BAD_REQUEST,
    "UnknownQueue": HTTPStatus.BAD_REQUEST,
    "InvalidPayload": HTTPStatus.BAD_REQUEST,
    "PayloadTooLarge": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "UnsupportedMediaType": HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    "RequestTimeout": HTTPStatus.REQUEST_TIMEOUT,
    "IdempotencyConflict": HTTPStatus.CONFLICT,
    "AlreadyFinished": HTTPStatus.CONFLICT,
    "NotFound": HTTPStatus.NOT_FOUND,
}
"""The HTTP status of each code that a client can meet; a test compares it with the OpenAPI document."""

_log = structlog.get_logger(__name__)


def problem(
    status: int,
    code: str,
    detail: str,
    *,
    problems: tuple[Problem, ...] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a problem document."""
    body: dict[str, Any] = {
        "type": TYPE_BASE + code,
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "error": detail,
    }
    if problems:
        body["errors"] = [{"path": one.path, "message": one.message} for one in problems]
    return Response(msgspec.json.encode(body), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def of_error(error: Rejected | Unavailable) -> Response:
    """Return the answer to an error that was raised on purpose."""
    if isinstance(error, Unavailable):
        return problem(503, "Unavailable", str(error), headers={"Retry-After": str(error.retry_after_seconds)})
    return problem(STATUS[error.code], error.code, str(error), problems=error.problems)


async def on_rejected(_: Request, error: Exception) -> Response:
    """Answer `Rejected` and `Unavailable`."""
    assert isinstance(error, Rejected | Unavailable)
    return of_error(error)


async def on_http_error(_: Request, error: Exception) -> Response:
    """Answer what the router refuses: no such path, wrong method."""
    assert isinstance(error, HTTPException)
    code = {404: "NotFound", 405: "MethodNotAllowed"}.get(error.status_code, "HttpError")
    return problem(error.status_code, code, error.detail, headers=error.headers)


async def on_bug(request: Request, error: Exception) -> Response:
    """Answer what nobody foresaw, and tell the log all about it."""
    _log.error("a bug answered 500", path=request.url.path, exc_info=error)
    return problem(500, "Internal", "an error of dtq's own: its log says more")

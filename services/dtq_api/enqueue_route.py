"""`POST /enqueue`: the route by which tasks arrive, as an ASGI application of its own.

The layers of the framework, which every other route keeps, would cost more than the work.
"""

import asyncio
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Final

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.limits import PAYLOAD_BYTES_MAX
from dtq.runtime.deadlines import Deadlines
from dtq.runtime.metrics import UNKNOWN, ApiMetrics, Children
from dtq_api import bodies, problems, requests
from dtq_api.auth.middleware import Admission, rights_of
from dtq_api.auth.policy import Verb
from dtq_api.enqueue import Enqueued, Enqueuing

BODY_SECONDS: Final = 10.0
"""Longest time to send a body, in seconds; a slower client gets 408."""
JSON: Final = b"application/json"
NDJSON: Final = b"application/x-ndjson"
PATH: Final = "/enqueue"
NAME: Final = "enqueue"
"""The route's name in the metrics."""


class EnqueueRoute:
    """The application; see `Front`."""

    def __init__(self, admission: Admission, enqueuing: Enqueuing, bodies_: "BodyReader", metrics: ApiMetrics) -> None:
        self._admission = admission
        self._enqueuing = enqueuing
        self._bodies = bodies_
        self._metrics = metrics
        self._enqueues = Children(metrics.enqueues)
        self._seconds = Children(metrics.enqueue_seconds)
        self._responses = Children(metrics.responses)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request.

        Raises:
            Exception: a bug; it has been answered, and the server closes the connection.
        """
        try:
            await self._admission.admit(scope)
            done = await self._admission.in_turn(scope, receive, partial(self._enqueue, scope))
        except (Rejected, Unavailable) as error:
            answer = problems.of_error(error)
            self._responses[NAME, str(answer.status_code)].inc()
            await answer(scope, receive, send)
        except Exception as error:
            self._responses[NAME, str(HTTPStatus.INTERNAL_SERVER_ERROR.value)].inc()
            await problems.of_bug(PATH, error)(scope, receive, send)
            raise
        else:
            self._responses[NAME, "201"].inc()
            await _accept(done, send)

    async def _enqueue(self, scope: Scope, receive: Receive) -> Enqueued:
        rights = rights_of(scope)
        started = time.perf_counter()
        type_ = queue = UNKNOWN
        status = "error"
        try:
            rights.require(Verb.ENQUEUE)
            text = await self._bodies.read(scope["headers"], receive)
            asked = requests.parse_enqueue(text, datetime.now(UTC))
            rights.require(Verb.ENQUEUE, asked.body.type)
            # Only declared names may become labels: clients can invent any number of names.
            type_ = asked.body.type if self._enqueuing.is_declared(asked.body.type) else UNKNOWN
            done = await self._enqueuing.enqueue(asked, rights)
            type_, queue, status = asked.body.type, done.queue, "ok"
        finally:
            self._enqueues[type_, queue, status].inc()
            self._seconds[type_, queue].observe(time.perf_counter() - started)
        if done.replayed:
            self._metrics.replayed.labels(type_).inc()
        return done


class Front:
    """Passes requests to the enqueue route, and all others to the application with the other routes."""

    def __init__(self, app: ASGIApp, enqueue_route: EnqueueRoute) -> None:
        self._app = app
        self._enqueue_route = enqueue_route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and scope["path"] == PATH and scope["method"] == "POST":
            await self._enqueue_route(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class BodyReader:
    """Reads JSON bodies; their size is checked while they arrive."""

    def __init__(self) -> None:
        self._deadlines = Deadlines()

    async def read(
        self,
        headers: Iterable[tuple[bytes, bytes]],
        receive: Receive,
        *,
        bytes_max: int = PAYLOAD_BYTES_MAX,
        media_types: tuple[bytes, ...] = (JSON,),
    ) -> bytes:
        """Return the body of a request, which has one of these media types and at most `bytes_max`.

        Raises:
            Rejected: `UnsupportedMediaType`, `PayloadTooLarge`, `RequestTimeout` or `InvalidBody`.
        """
        _check_headers(headers, bytes_max, media_types)
        task = asyncio.current_task()
        assert task is not None
        deadline = self._deadlines.start(BODY_SECONDS, partial(task.cancel, "body"))
        try:
            return await _whole_body(receive, bytes_max)
        except asyncio.CancelledError as error:
            if not deadline.was_reached or task.uncancel():
                raise
            raise Rejected("RequestTimeout", f"the body did not arrive within {BODY_SECONDS:g} s") from error
        finally:
            self._deadlines.cancel(deadline)


def media_type_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the media type of a body, in lower case and without parameters."""
    for name, value in headers:
        if name == b"content-type":
            return value.partition(b";")[0].strip().lower()
    return b""


def _check_headers(headers: Iterable[tuple[bytes, bytes]], bytes_max: int, media_types: tuple[bytes, ...]) -> None:
    if media_type_of(headers) not in media_types:
        raise Rejected("UnsupportedMediaType", f"send Content-Type: {b' or '.join(media_types).decode()}")
    for name, value in headers:
        if name == b"content-encoding" and value.lower() != b"identity":
            raise Rejected("UnsupportedMediaType", "send the body without Content-Encoding")
        if name == b"content-length" and value.isdigit() and int(value[:20]) > bytes_max:
            raise _too_large(bytes_max)


async def _whole_body(receive: Receive, bytes_max: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Rejected("InvalidBody", "the client closed the connection")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > bytes_max:
            raise _too_large(bytes_max)
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _too_large(bytes_max: int) -> Rejected:
    return Rejected("PayloadTooLarge", f"the body is larger than {bytes_max} bytes")


async def _accept(done: Enqueued, send: Send) -> None:
    body = msgspec.json.encode(bodies.Enqueued(id=done.id, status=done.status, queue=done.queue))
    headers = [
        (b"content-length", b"%d" % len(body)),
        (b"content-type", b"application/json"),
        (b"location", b"/tasks/%b" % str(done.id).encode()),
    ]
    if done.replayed:
        headers.append((b"idempotency-replayed", b"true"))
    await send({"type": "http.response.start", "status": HTTPStatus.CREATED.value, "headers": headers})
    await send({"type": "http.response.body", "body": body})

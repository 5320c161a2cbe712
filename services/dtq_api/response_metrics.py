"""Counts answers by route and status code.

The route label is the name of the endpoint, so that a caller's path or id never becomes a label.
"""

from http import HTTPStatus

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dtq.runtime.metrics import UNKNOWN


class ResponseMetricsMiddleware:
    """Counts every answer: of a route, of the authentication middleware, or of the router."""

    def __init__(self, app: ASGIApp, responses: Counter) -> None:
        self._app = app
        self._responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request and count its answer."""
        answered = False

        def count(code: int) -> None:
            nonlocal answered
            answered = True
            route = getattr(scope.get("endpoint"), "__name__", UNKNOWN)
            self._responses.labels(route, code).inc()

        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                count(message["status"])
            await send(message)

        try:
            await self._app(scope, receive, counting)
        except Exception:
            # The answer to a bug is sent by an outer middleware, where it is not counted.
            if not answered:
                count(HTTPStatus.INTERNAL_SERVER_ERROR.value)
            raise

"""Counting answers, by route and code.

Owns the labels: a route is the name of its endpoint, so that no path and no id of a caller becomes one.
"""

from http import HTTPStatus

from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dtq.runtime.metrics import UNKNOWN


class ResponseMetricsMiddleware:
    """The middleware that counts, whoever answers: a route, the door, or the router itself."""

    def __init__(self, app: ASGIApp, responses: Counter) -> None:
        self._app = app
        self._responses = responses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and count what is answered."""
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
            # The answer to a bug is made further out, where nobody counts.
            if not answered:
                count(HTTPStatus.INTERNAL_SERVER_ERROR.value)
            raise

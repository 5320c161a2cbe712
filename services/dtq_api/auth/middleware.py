"""The authentication middleware: runs before routing, for every request.

It lists the paths that need no credential; every other route requires one.
"""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dtq.domain.errors import Rejected, Unavailable
from dtq_api import problems
from dtq_api.auth.authenticator import Authenticator
from dtq_api.auth.policy import Rights

OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})
"""Paths that the kubelet requests without a credential: they show nothing about tasks."""
_RIGHTS: Final = "dtq.rights"


class AuthenticationMiddleware:
    """Authenticates each request."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._gate = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer what is wrong with its credential."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            credentials = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                scope[_RIGHTS] = await self._gate.rights(credentials)
            except (Rejected, Unavailable) as error:
                await problems.of_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def permissions_of(request: Request) -> Rights:
    """Return the permissions of an authenticated request's caller."""
    rights: Rights = request.scope[_RIGHTS]
    return rights

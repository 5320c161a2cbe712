"""The door: every request passes it, before any route is looked for.

Owns which paths need no credential. A route that is added later is closed until somebody opens it here.
"""

from typing import Final

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dtq.domain.errors import Rejected, Unavailable
from dtq_api import problems
from dtq_api.auth.authenticator import Authenticator
from dtq_api.auth.policy import Rights

OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})
"""What the kubelet asks, without a credential: they tell nothing about tasks."""
_RIGHTS: Final = "dtq.rights"


class AuthenticationMiddleware:
    """The middleware that asks the authenticator."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator) -> None:
        self._app = app
        self._gate = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer what is wrong with its credential."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            credentials = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                scope[_RIGHTS] = await self._gate.rights(credentials)
            except (Rejected, Unavailable) as error:
                await problems.of_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def permissions_of(request: Request) -> Rights:
    """Return what the caller of a request that passed the door may do."""
    rights: Rights = request.scope[_RIGHTS]
    return rights

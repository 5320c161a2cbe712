"""The authentication middleware: runs before routing, for every request, and counts the requests of each caller.

It lists the paths that need no credential; every other route requires one.
"""

from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from dtq.domain.errors import Rejected, Unavailable
from dtq_api import problems
from dtq_api.auth.authenticator import Authenticator, NoAuthentication
from dtq_api.auth.policy import EVERYTHING, Rights
from dtq_api.caller_limits import CallerLimits

OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})
"""Paths that the kubelet requests without a credential: they show nothing about tasks."""
_RIGHTS: Final = "dtq.rights"


class AuthenticationMiddleware:
    """Authenticates each request, and refuses a caller who sends too many."""

    def __init__(self, app: ASGIApp, authenticator: Authenticator, limits: CallerLimits) -> None:
        self._app = app
        self._authenticator = authenticator
        self._limits = limits
        self._is_open = isinstance(authenticator, NoAuthentication)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer why it is refused."""
        if scope["type"] == "http" and self._is_open and not _is_local(Headers(scope=scope).get("host", "")):
            message = "without authentication, only requests to localhost or an address are answered: set DTQ_AUTH=on"
            await problems.of_error(Rejected("HostNotAllowed", message))(scope, receive, send)
            return
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            credentials = [value for name, value in scope["headers"] if name == b"authorization"]
            try:
                scope[_RIGHTS] = await self._authenticator.rights(credentials)
                if not self._is_open:  # otherwise the one client may be a load test on its own machine
                    self._limits.admit(caller_of(scope))
            except (Rejected, Unavailable) as error:
                await problems.of_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def permissions_of(request: Request) -> Rights:
    """Return the permissions of an authenticated request's caller."""
    rights: Rights = request.scope[_RIGHTS]
    return rights


def _is_local(host: str) -> bool:
    """Return whether a Host header names an address or a name without a domain.

    A web page can have a browser call an API on this machine by a domain name of its own (DNS rebinding).
    """
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    with suppress(ValueError):
        return bool(ip_address(name.strip("[]")))
    return "." not in name.removesuffix(".").removesuffix(".localhost")


def caller_of(scope: Scope) -> str:
    """Return whose limits a request counts towards: its caller or, without authentication, the client's address."""
    rights: Rights = scope[_RIGHTS]
    address = scope.get("client") if rights is EVERYTHING else None
    return address[0] if address else rights.caller.name

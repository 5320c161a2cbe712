"""The authentication middleware: runs before routing, for every request, and counts the requests of each caller.

It lists the paths that need no credential; every other route requires one.
"""

from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

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


class Admission:
    """Admits requests: authenticates each, and refuses a caller who sends too many."""

    def __init__(self, authenticator: Authenticator, limits: CallerLimits) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._is_open = isinstance(authenticator, NoAuthentication)

    async def admit(self, scope: Scope) -> None:
        """Find the permissions of a request's caller; see `rights_of`.

        Raises:
            Rejected: the request is refused.
            Unavailable: whether the caller is known cannot be told now.
        """
        headers = scope["headers"]
        if self._is_open and not _is_local(b"".join([value for name, value in headers if name == b"host"][:1])):
            message = "without authentication, only requests to localhost or an address are answered: set DTQ_AUTH=on"
            raise Rejected("HostNotAllowed", message)
        if scope["path"] in OPEN_PATHS:
            return
        credentials = [value for name, value in headers if name == b"authorization"]
        scope[_RIGHTS] = await self._authenticator.rights(credentials)
        self.count(scope, 1)

    def count(self, scope: Scope, requests: int) -> None:
        """Count requests of a caller.

        Raises:
            Rejected: `TooManyRequests`: the caller sends too many.
        """
        if not self._is_open:  # otherwise the one client may be a load test on its own machine
            self._limits.admit(caller_of(scope), requests)


class AuthenticationMiddleware:
    """Passes on the requests that are admitted."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer why it is refused."""
        if scope["type"] == "http":
            try:
                await self._admission.admit(scope)
            except (Rejected, Unavailable) as error:
                await problems.of_error(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def permissions_of(request: Request) -> Rights:
    """Return the permissions of an authenticated request's caller."""
    return rights_of(request.scope)


def rights_of(scope: Scope) -> Rights:
    """Return the permissions of an admitted request's caller."""
    rights: Rights = scope[_RIGHTS]
    return rights


@lru_cache(maxsize=256)
def _is_local(header: bytes) -> bool:
    """Return whether a Host header names an address or a name without a domain.

    A web page can have a browser call an API on this machine by a domain name of its own (DNS rebinding).
    """
    host = header.decode("latin-1")
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    with suppress(ValueError):
        return bool(ip_address(name.strip("[]")))
    return "." not in name.removesuffix(".").removesuffix(".localhost")


def caller_of(scope: Scope) -> str:
    """Return whose limits a request counts towards: its caller or, without authentication, the client's address."""
    rights = rights_of(scope)
    address = scope.get("client") if rights is EVERYTHING else None
    return address[0] if address else rights.caller.name

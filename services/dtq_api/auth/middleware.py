"""The authentication middleware: runs before routing, for every request, and applies the limits of each caller.

It lists the paths that need no credential; every other route requires one.
"""

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.limits import BULK_BYTES_MAX
from dtq_api import problems
from dtq_api.auth.authenticator import Authenticator, NoAuthentication
from dtq_api.auth.policy import EVERYTHING, Rights
from dtq_api.caller_limits import LARGE_BODY_BYTES, CallerLimits
from dtq_api.caller_turns import CallerTurns

OPEN_PATHS: Final = frozenset({"/healthz", "/livez", "/readyz"})
"""Paths that the kubelet requests without a credential: they show nothing about tasks."""
BODY_PATHS: Final = frozenset({"/enqueue", "/enqueue/bulk", "/dlq/redrive"})
"""Paths whose requests have a body that is read."""
_RIGHTS: Final = "dtq.rights"
T = TypeVar("T")


class Admission:
    """Admits requests: authenticates each, refuses callers who send too many, and lets one caller's take turns."""

    def __init__(self, authenticator: Authenticator, limits: CallerLimits) -> None:
        self._authenticator = authenticator
        self._limits = limits
        self._is_open = isinstance(authenticator, NoAuthentication)

    async def admit(self, scope: Scope) -> None:
        """Find the permissions of a request's caller; see `rights_of`.

        Raises:
            Rejected: the request is refused; many refusals are slow.
            Unavailable: whether the caller is known cannot be told now.
        """
        headers = scope["headers"]
        if self._is_open and not _is_local(b"".join([value for name, value in headers if name == b"host"][:1])):
            message = "without authentication, only requests to localhost or an address are answered: set DTQ_AUTH=on"
            raise Rejected("HostNotAllowed", message)
        if scope["path"] in OPEN_PATHS:
            return
        credentials = [value for name, value in headers if name == b"authorization"]
        try:
            scope[_RIGHTS] = await self._authenticator.rights(credentials)
            self.count(scope, 1)
        except (Rejected, Unavailable):
            await self._limits.pace_refusal()
            raise

    def count(self, scope: Scope, requests: int) -> None:
        """Count requests of a caller.

        Raises:
            Rejected: `TooManyRequests`: the caller sends too many.
        """
        if not self._is_open:  # otherwise the one client may be a load test on its own machine
            self._limits.admit(caller_of(scope), requests)

    async def in_turn(self, scope: Scope, receive: Receive, answer: Callable[[Receive], Awaitable[T]]) -> T:
        """Answer an admitted request when it is its caller's turn; return what `answer` returns.

        Raises:
            Rejected: `TooManyRequests`: there was no turn.
        """
        if self._is_open or scope["path"] in OPEN_PATHS:
            return await answer(receive)
        caller = caller_of(scope)
        turn = _Turn(self._limits.requests, caller, receive)
        async with AsyncExitStack() as held:
            if scope["path"] not in BODY_PATHS:
                await turn.begin()
            elif _is_large(scope["headers"]):
                await held.enter_async_context(self._limits.large_body(caller))
            held.callback(turn.end)
            return await answer(turn.receive)


class AuthenticationMiddleware:
    """Passes on the requests that are admitted."""

    def __init__(self, app: ASGIApp, admission: Admission) -> None:
        self._app = app
        self._admission = admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or answer why it is refused."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._admission.admit(scope)
            await self._admission.in_turn(scope, receive, lambda receive: self._app(scope, receive, send))
        except (Rejected, Unavailable) as error:
            await problems.of_error(error)(scope, receive, send)


class _Turn:
    """The turn of one request. It begins when the body has arrived, so that a slow client has no turn."""

    def __init__(self, turns: CallerTurns, caller: str, receive: Receive) -> None:
        self._turns = turns
        self._caller = caller
        self._receive = receive
        self._is_mine = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not self._is_mine and not message.get("more_body"):
            await self.begin()
        return message

    async def begin(self) -> None:
        await self._turns.begin(self._caller)
        self._is_mine = True

    def end(self) -> None:
        if self._is_mine:
            self._turns.end(self._caller)


def _is_large(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Return whether a body is read that may be large; a body that is too large is not read."""
    for name, value in headers:
        if name == b"transfer-encoding":
            return True
        if name == b"content-length":
            return value.isdigit() and LARGE_BODY_BYTES < int(value[:20]) <= BULK_BYTES_MAX
    return False


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

"""The errors of a call to the Kubernetes API: one for each way in which the caller can react.

Every error is `Unavailable`, which loops survive, or `Conflict`: any answer may be different next time, after a change
of a Role, a policy, an object or the server.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

from dtq.domain.errors import RETRY_AFTER_SECONDS, Unavailable

REFUSED_SECONDS: Final = 30
"""When a refused request is tried again, in seconds: a person must change something first."""
REASON_CHARS_MAX: Final = 300
"""Longest reason, in characters: a policy's message may be long, and the reason is part of a condition."""
_COME_BACK: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GONE)
"""Too many requests, or a list that took so long that its next page has expired."""
_PATH: Final = re.compile(
    r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_VERBS: Final[Mapping[str, str]] = {"GET": "get", "POST": "create", "PATCH": "patch"}


class CallFailed(Unavailable):
    """A call failed; the same call may succeed later.

    Attributes:
        call: verb, resource and object, as a Role names them.
        reason: what the API server answered.
    """

    def __init__(self, call: str, reason: str, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> None:
        self.call = call
        self.reason = reason[:REASON_CHARS_MAX]
        super().__init__(f"{call}: {self.reason}", retry_after_seconds)

    @classmethod
    def unreadable(cls, call: str) -> Self:
        """Return the error for an answer that the call must not give."""
        return cls(call, "the answer cannot be read: is this the API server?")


class Refused(CallFailed):
    """The API server refuses the request: a Role, a policy or the object must change."""


class NotServed(CallFailed):
    """The API server does not know the resource: its definition is not installed or not served yet."""


class Conflict(Exception):
    """The object is not in the expected state: gone, re-created, or changed meanwhile."""


class NotFound(Conflict):
    """The object does not exist."""


def called(method: str, path: str) -> str:
    """Return a request in the terms of a Role: `patch deployments/scale mailer in namespace shop`."""
    match = _PATH.match(path)
    if match is None:
        return f"{method} {path}"
    verb = "list" if method == "GET" and not match["name"] else _VERBS[method]
    resource = match["resource"] + (f"/{match['sub']}" if match["sub"] else "")
    where = f" in namespace {match['namespace']}" if match["namespace"] else ""
    return " ".join(filter(None, (verb, resource, match["name"]))) + where


def checked(call: str, status: int, retry_after: str, text: str) -> Mapping[str, Any]:
    """Return the object that an answer holds.

    Raises:
        NotFound: the object of the call does not exist.
        Conflict: the object is not in the expected state.
        NotServed: the resource is not known.
        Refused: the request is refused.
        CallFailed: the server asks the client to try later, or the answer is not an object.
    """
    found = _json_object(text)
    if status < HTTPStatus.MULTIPLE_CHOICES:
        if not isinstance(found.get("metadata"), dict):
            raise CallFailed.unreadable(call)
        return found
    message = found.get("message") if isinstance(found.get("message"), str) else text
    reason = f"{status} {_phrase(status)}: {message}".strip(": \n")
    if status == HTTPStatus.NOT_FOUND:
        if _names_an_object(found):
            raise NotFound(f"{call}: {reason}")
        raise NotServed(call, reason)
    if status == HTTPStatus.CONFLICT or (status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in text):
        raise Conflict(f"{call}: {reason}")
    if status in _COME_BACK or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status < HTTPStatus.BAD_REQUEST:
        seconds = int(retry_after[:9]) if retry_after.isdecimal() else RETRY_AFTER_SECONDS
        raise CallFailed(call, reason, min(seconds, REFUSED_SECONDS))
    raise Refused(call, reason, REFUSED_SECONDS)


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _names_an_object(status: Mapping[str, Any]) -> bool:
    """Whether a 404 is about the object; a server that does not know the resource names no object."""
    details = status.get("details")
    return status.get("reason") == "NotFound" and isinstance(details, dict) and bool(details.get("name"))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

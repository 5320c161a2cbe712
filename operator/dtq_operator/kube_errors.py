"""What may come of a call to the Kubernetes API: one error for each thing that the caller can do about it.

Pure. Every error of a call is `Unavailable`, which no loop dies of, or `Conflict`: whatever the API server answers
may be otherwise next time, when a Role, a policy, an object or the server has been changed.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

from dtq.domain.errors import RETRY_AFTER_SECONDS, Unavailable

REFUSED_SECONDS: Final = 30
"""When a request that was refused as it is is worth another try, in seconds: somebody has to change something."""
REASON_CHARS_MAX: Final = 300
"""Longest reason, in characters: a policy may write at length, and it ends in a condition."""
_COME_BACK: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GONE)
"""Too many at once, or a list that took so long that its next page is gone."""
_PATH: Final = re.compile(
    r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_VERBS: Final[Mapping[str, str]] = {"GET": "get", "POST": "create", "PATCH": "patch"}


class CallFailed(Unavailable):
    """A call did not succeed; the same call may pass later.

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
        """Return the error for an answer that is not what the call gives."""
        return cls(call, "the answer cannot be read: is this the API server?")


class Refused(CallFailed):
    """The API server does not accept the request as it is: a Role, a policy or the object must change."""


class NotServed(CallFailed):
    """The API server does not know the resource: its definition is not installed, or not yet served."""


class Conflict(Exception):
    """The object is not what we thought: gone, re-created, or changed meanwhile."""


class NotFound(Conflict):
    """There is no such object."""


def called(method: str, path: str) -> str:
    """Return what a request does in the words of a Role: `patch deployments/scale mailer in namespace shop`."""
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
        Conflict: it is not what we thought.
        NotServed: the resource is not known.
        Refused: the request is not accepted as it is.
        CallFailed: the server asks us to come back, or its answer is no object.
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
    """Whether a 404 is about the object; a server that does not know the resource, yet, names none."""
    details = status.get("details")
    return status.get("reason") == "NotFound" and isinstance(details, dict) and bool(details.get("name"))


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""

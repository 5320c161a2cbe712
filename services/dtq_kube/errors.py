"""The errors of a call to the Kubernetes API: one for each way in which the caller can react.

Every error is `Unavailable`, which loops survive, or `Conflict`: any answer may be different next time, after a change
of a Role, a policy, an object or the server.
"""

import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from http.client import responses
from typing import Any, Final

from dtq.domain.errors import RETRY_AFTER_SECONDS, Unavailable

REFUSED_SECONDS: Final = 30
"""When a refused request is tried again, in seconds: a person must change something first."""
REASON_CHARS_MAX: Final = 300
"""Longest reason, in characters: a policy's message may be long, and the reason is part of a condition."""
_COME_BACK: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GONE, HTTPStatus.CONFLICT)
"""Credentials that are being rotated, too many requests, a list whose next page has expired, and no cause of a read."""
_PATH: Final = re.compile(
    r"^/(?:api|apis/[^/]+)/[^/]+(?:/namespaces/(?P<namespace>[^/]+))?/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_VERBS: Final[Mapping[str, str]] = {"GET": "get", "POST": "create", "PATCH": "patch"}


class CallFailed(Unavailable):
    """A call failed; the same call may succeed later.

    Args:
        call: verb, resource and object, as a Role names them.
        reason: what the API server answered.
    """

    def __init__(self, call: str, reason: str, retry_after_seconds: int = RETRY_AFTER_SECONDS) -> None:
        super().__init__(f"{call}: {reason[:REASON_CHARS_MAX]}", retry_after_seconds)


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


def checked(call: str, status: int, retry_after: str, data: bytes) -> Mapping[str, Any]:
    """Return the JSON object that an answer consists of, empty if it is none.

    Raises:
        NotFound: the object of the call does not exist.
        Conflict: the object is not in the expected state.
        NotServed: the resource is not known.
        Refused: the request is refused.
        CallFailed: the server asks the client to try later.
    """
    text = data.decode(errors="replace")
    found = _json_object(text)
    if status < HTTPStatus.MULTIPLE_CHOICES:
        return found
    message = found.get("message") if isinstance(found.get("message"), str) else text
    if status == HTTPStatus.UNAUTHORIZED:
        message = "the API server refuses the credentials"
    reason = f"{status} {responses.get(status, '')}: {message}".strip(": \n")
    verb = call.partition(" ")[0]
    if status == HTTPStatus.NOT_FOUND:
        if verb != "list" and _names_an_object(found):
            raise NotFound(f"{call}: {reason}")
        raise NotServed(call, reason)
    is_lost = status == HTTPStatus.CONFLICT or (status == HTTPStatus.UNPROCESSABLE_ENTITY and "metadata.uid" in text)
    if is_lost and verb not in {"get", "list"}:
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

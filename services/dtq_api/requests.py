"""Parses and checks the bodies and queries of requests; a problem says what to change."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.datastructures import QueryParams

from dtq.domain import limits
from dtq.domain.errors import Problem, Rejected
from dtq.domain.json_text import NUMBER_DIGITS_MAX, has_long_number, has_nul
from dtq.domain.manifests import TYPE_PATTERN
from dtq.domain.states import TaskStatus

PAGE_DEFAULT: Final = 50
REDRIVE_IDS_MAX: Final = 1_000
"""Most ids in one redrive, a page of a person's work; a filter may take more tasks."""
REDRIVE_DEFAULT: Final = 100
"""Default limit of a redrive by filter, in tasks."""
_TYPE: Final = re.compile(TYPE_PATTERN)
_TYPE_MEANT: Final = "must be a dotted lower-case name such as email.send.v1"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FIRST_DAY: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Earliest accepted time: drivers and databases turn the very first day into an infinity."""


class EnqueueBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /enqueue`."""

    type: str
    payload: msgspec.Raw
    queue: str | None = None
    max_attempts: int | None = None
    idempotency_key: str | None = None
    run_at: str | None = None


class RedriveBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /dlq/redrive`: ids, or a filter, or all."""

    ids: list[UUID] | None = None
    type: str | None = None
    queue: str | None = None
    failed_before: str | None = None
    limit: int | None = None
    all: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueRequest:
    """A well-formed request; the catalog decides whether its type allows it.

    Attributes:
        payload_text: the payload's JSON, as received.
        payload: the decoded payload.
    """

    type: str
    payload_text: str
    payload: Any
    queue: str | None
    max_attempts: int | None
    idempotency_key: str | None
    run_at: datetime | None


_enqueue_decoder = msgspec.json.Decoder(EnqueueBody)
_redrive_decoder = msgspec.json.Decoder(RedriveBody)
_any_decoder = msgspec.json.Decoder()


def parse_enqueue(body: bytes, now: datetime) -> EnqueueRequest:
    """Return the request in an enqueue body.

    Raises:
        Rejected: `InvalidBody`, with one problem for each wrong field.
    """
    decoded: EnqueueBody = _decode(_enqueue_decoder, body)
    payload = _payload(decoded.payload)
    problems: list[Problem] = []
    if not _is_type(decoded.type):
        problems.append(Problem(path="type", message=_TYPE_MEANT))
    if payload is None:
        problems.append(Problem(path="payload", message="payload is required"))
    if decoded.max_attempts is not None and not 1 <= decoded.max_attempts <= limits.ATTEMPTS_MAX:
        problems.append(Problem(path="max_attempts", message=f"must be within 1..{limits.ATTEMPTS_MAX}"))
    if (key := decoded.idempotency_key) is not None:
        problems += _key_problems(key)
    run_at = _time("run_at", decoded.run_at, problems)
    if run_at is not None and run_at > now + timedelta(seconds=limits.RUN_AT_SECONDS_MAX):
        problems.append(Problem(path="run_at", message="is more than a year ahead: enqueue it later"))
    if problems:
        raise _rejected(problems)
    return EnqueueRequest(
        type=decoded.type,
        payload_text=bytes(decoded.payload).decode(),
        payload=payload,
        queue=decoded.queue or None,
        max_attempts=decoded.max_attempts,
        idempotency_key=key,
        run_at=run_at,
    )


def parse_redrive(body: bytes) -> RedriveBody:
    """Return the request in a redrive body.

    Raises:
        Rejected: `InvalidBody`.
    """
    decoded: RedriveBody = _decode(_redrive_decoder, body)
    problems: list[Problem] = []
    if decoded.ids is not None and not 1 <= len(decoded.ids) <= REDRIVE_IDS_MAX:
        problems.append(Problem(path="ids", message=f"must name 1..{REDRIVE_IDS_MAX} tasks"))
    if decoded.ids is not None and (decoded.type, decoded.queue, decoded.failed_before, decoded.limit) != (None,) * 4:
        problems.append(Problem(path="ids", message="ids and a filter exclude each other: send one of them"))
    filtered = (decoded.type, decoded.queue, decoded.failed_before) != (None,) * 3
    if decoded.all and (filtered or decoded.ids is not None):
        problems.append(Problem(path="all", message="all, ids and a filter exclude each other: send one of them"))
    if decoded.ids is None and not filtered and not decoded.all:
        message = 'name ids, or a filter (type, queue, failed_before), or send "all": true for every failed task'
        problems.append(Problem(path="ids", message=message))
    if decoded.limit is not None and not 1 <= decoded.limit <= limits.REDRIVE_MAX:
        problems.append(Problem(path="limit", message=f"must be within 1..{limits.REDRIVE_MAX}"))
    if decoded.type is not None and not _is_type(decoded.type):
        problems.append(Problem(path="type", message=_TYPE_MEANT))
    if decoded.queue is not None and _CONTROL.search(decoded.queue):
        problems.append(Problem(path="queue", message="has control characters"))
    _time("failed_before", decoded.failed_before, problems)
    if problems:
        raise _rejected(problems)
    return decoded


def parse_time(text: str | None) -> datetime | None:
    """Return a time that was already checked."""
    return None if text is None else msgspec.convert(text, datetime).astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class PageRequest:
    """Which page of tasks to show."""

    limit: int
    cursor: UUID | None
    status: str | None
    type: str | None
    queue: str | None


def parse_page(query: QueryParams | Mapping[str, str]) -> PageRequest:
    """Return the page that the query of `GET /tasks` asks for.

    Raises:
        Rejected: `InvalidQuery`.
    """
    problems = [
        Problem(path=name, message="is no parameter of this page")
        for name in query
        if name not in ("limit", "cursor", "status", "type", "queue")
    ]
    limit = _whole(query.get("limit", str(PAGE_DEFAULT)))
    if not 1 <= limit <= limits.PAGE_MAX:
        problems.append(Problem(path="limit", message=f"must be within 1..{limits.PAGE_MAX}"))
    cursor = None
    if (text := query.get("cursor")) is not None and (cursor := parse_id(text)) is None:
        problems.append(Problem(path="cursor", message="is not one that this API gave"))
    if (status := query.get("status")) is not None and status not in set(TaskStatus):
        problems.append(Problem(path="status", message=f"must be one of {', '.join(TaskStatus)}"))
    if (type_ := query.get("type")) is not None and not _is_type(type_):
        problems.append(Problem(path="type", message=_TYPE_MEANT))
    if (queue := query.get("queue")) is not None and _CONTROL.search(queue):
        problems.append(Problem(path="queue", message="has control characters"))
    if problems:
        raise Rejected("InvalidQuery", "; ".join(f"{p.path} {p.message}" for p in problems), tuple(problems))
    return PageRequest(limit=limit, cursor=cursor, status=status, type=type_, queue=queue)


def parse_id(text: str) -> UUID | None:
    """Return a task id, or None if the text is not a task id."""
    try:
        id_ = UUID(text)
    except ValueError:
        return None
    return id_ if str(id_) == text.lower() else None


def _decode(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    if not body:
        raise Rejected("InvalidBody", "the body is empty: send a JSON object")
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _rejected([_located(str(error))]) from error
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Rejected("InvalidBody", f"invalid json: {str(error)[:200]}") from error


def _payload(raw: msgspec.Raw) -> Any:
    text = bytes(raw)
    if has_nul(text):
        raise _rejected([Problem(path="payload", message="has a NUL character (\\u0000), which cannot be stored")])
    if has_long_number(text):
        raise _rejected([Problem(path="payload", message=f"has a number of {NUMBER_DIGITS_MAX} digits or more")])
    try:
        return _any_decoder.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Rejected("InvalidBody", f"invalid json in payload: {str(error)[:200]}") from error


def _key_problems(key: str) -> list[Problem]:
    if not 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX:
        return [Problem(path="idempotency_key", message=f"must have 1..{limits.IDEMPOTENCY_KEY_CHARS_MAX} characters")]
    if _CONTROL.search(key):
        return [Problem(path="idempotency_key", message="has control characters")]
    return []


def _time(path: str, text: str | None, problems: list[Problem]) -> datetime | None:
    if text is None:
        return None
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        problems.append(Problem(path=path, message="must be a time such as 2026-11-24T08:30:00Z"))
        return None
    if time.tzinfo is None:
        problems.append(Problem(path=path, message="has no time zone: end it with Z or an offset"))
        return None
    try:
        time = time.astimezone(UTC)
    except OverflowError:
        time = datetime.min.replace(tzinfo=UTC)
    if time < _FIRST_DAY:
        problems.append(Problem(path=path, message="is out of range: it must lie within the years 1970 and 9999"))
        return None
    return time


def _is_type(text: str) -> bool:
    return len(text) <= limits.TYPE_CHARS_MAX and _TYPE.fullmatch(text) is not None


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1


def _located(message: str) -> Problem:
    """Split msgspec's "… - at `$.path`" into path and message."""
    what, _, where = message.partition(" - at `$")
    field = re.search(r"field `([^`]+)`", what)
    path = where.rstrip("`").lstrip(".") or (field.group(1) if field else "body")
    return Problem(path=path, message=what)


def _rejected(problems: list[Problem]) -> Rejected:
    return Rejected("InvalidBody", "; ".join(f"{p.path}: {p.message}" for p in problems), tuple(problems))

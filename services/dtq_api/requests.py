"""Parses and checks the bodies and queries of requests; a problem says what to change."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from starlette.datastructures import QueryParams

from dtq.domain import limits
from dtq.domain.errors import Problem, Rejected
from dtq.domain.names import TYPE_PATTERN
from dtq.domain.states import TaskStatus
from dtq_api.bodies import PAGE_DEFAULT, REDRIVE_IDS_MAX, EnqueueBody, RedriveBody
from dtq_db.pages import TaskFilter

_TYPE: Final = re.compile(TYPE_PATTERN)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FIRST_DAY: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Earliest accepted time: drivers and databases turn the very first day into an infinity."""


class EnqueueRequest(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A well-formed request, but for its payload; the catalog decides whether its type allows it.

    Attributes:
        run_at: the earliest start, in UTC.
    """

    body: EnqueueBody
    run_at: datetime | None


class _Mistakes(list[Problem]):
    """What is wrong with a request, field by field."""

    def note(self, path: str, message: str) -> None:
        self.append(Problem(path=path, message=message))

    def within(self, path: str, value: int | None, most: int) -> None:
        if value is not None and not 1 <= value <= most:
            self.note(path, f"must be within 1..{most}")

    def type(self, text: str | None) -> None:
        if text is not None and (len(text) > limits.TYPE_CHARS_MAX or _TYPE.fullmatch(text) is None):
            self.note("type", "must be a dotted lower-case name such as email.send.v1")

    def text(self, path: str, text: str | None) -> None:
        if text is not None and _CONTROL.search(text):
            self.note(path, "has control characters")

    def time(self, path: str, text: str | None) -> datetime | None:
        """Return a time in UTC; None if there is none, or if it is noted as wrong."""
        if text is None:
            return None
        try:
            time = msgspec.convert(text, datetime)
        except msgspec.ValidationError:
            self.note(path, "must be a time such as 2026-11-24T08:30:00Z")
            return None
        if time.tzinfo is None:
            self.note(path, "has no time zone: end it with Z or an offset")
            return None
        try:
            time = time.astimezone(UTC)
        except OverflowError:
            time = datetime.min.replace(tzinfo=UTC)
        if time < _FIRST_DAY:
            self.note(path, "is out of range: write a year from 1970 to 9999")
            return None
        return time

    def refuse(self, code: str = "InvalidBody", separator: str = ": ") -> None:
        """Raise `Rejected` if anything is wrong."""
        if self:
            detail = "; ".join(f"{problem.path}{separator}{problem.message}" for problem in self)
            raise Rejected(code, detail, tuple(self))


_enqueue_decoder = msgspec.json.Decoder(EnqueueBody)
_redrive_decoder = msgspec.json.Decoder(RedriveBody)


def parse_enqueue(text: bytes, now: datetime) -> EnqueueRequest:
    """Return the request in an enqueue body.

    Raises:
        Rejected: `InvalidBody`, with one problem for each wrong field.
    """
    body: EnqueueBody = _decode(_enqueue_decoder, text)
    mistakes = _Mistakes()
    mistakes.type(body.type)
    if bytes(body.payload).strip() == b"null":
        mistakes.note("payload", "payload is required")
    mistakes.within("max_attempts", body.max_attempts, limits.ATTEMPTS_MAX)
    key = body.idempotency_key
    if key is not None and not 1 <= len(key) <= limits.IDEMPOTENCY_KEY_CHARS_MAX:
        mistakes.note("idempotency_key", f"must have 1..{limits.IDEMPOTENCY_KEY_CHARS_MAX} characters")
    else:
        mistakes.text("idempotency_key", key)
    run_at = mistakes.time("run_at", body.run_at)
    if run_at is not None and run_at > now + timedelta(seconds=limits.RUN_AT_SECONDS_MAX):
        mistakes.note("run_at", "is more than a year ahead: enqueue it later")
    mistakes.refuse()
    return EnqueueRequest(body=body, run_at=run_at)


def parse_redrive(text: bytes) -> RedriveBody:
    """Return the request in a redrive body.

    Raises:
        Rejected: `InvalidBody`.
    """
    body: RedriveBody = _decode(_redrive_decoder, text)
    mistakes = _Mistakes()
    filtered = (body.type, body.queue, body.failed_before) != (None,) * 3
    if body.ids is not None and not 1 <= len(body.ids) <= REDRIVE_IDS_MAX:
        mistakes.note("ids", f"must name 1..{REDRIVE_IDS_MAX} tasks")
    if body.ids is not None and (filtered or body.limit is not None):
        mistakes.note("ids", "ids and a filter exclude each other: send one of them")
    if body.all and (filtered or body.ids is not None):
        mistakes.note("all", "all, ids and a filter exclude each other: send one of them")
    if body.ids is None and not filtered and not body.all:
        message = 'name ids, or a filter (type, queue, failed_before), or send "all": true for every failed task'
        mistakes.note("ids", message)
    mistakes.within("limit", body.limit, limits.REDRIVE_MAX)
    mistakes.type(body.type)
    mistakes.text("queue", body.queue)
    mistakes.time("failed_before", body.failed_before)
    mistakes.refuse()
    return body


def parse_time(text: str | None) -> datetime | None:
    """Return a time that was already checked."""
    return None if text is None else msgspec.convert(text, datetime).astimezone(UTC)


def parse_page(query: QueryParams | Mapping[str, str]) -> tuple[TaskFilter, int]:
    """Return the tasks that the query of `GET /tasks` asks for, and how many of them at most.

    Raises:
        Rejected: `InvalidQuery`.
    """
    mistakes = _Mistakes()
    for name in query:
        if name not in ("limit", "cursor", "status", "type", "queue"):
            mistakes.note(name, "is not a parameter of this route")
    limit = _whole(query.get("limit", str(PAGE_DEFAULT)))
    mistakes.within("limit", limit, limits.PAGE_MAX)
    cursor = None
    if (text := query.get("cursor")) is not None and (cursor := parse_id(text)) is None:
        mistakes.note("cursor", "is invalid: send next_cursor of the page before")
    if (status := query.get("status")) is not None and status not in set(TaskStatus):
        mistakes.note("status", f"must be one of {', '.join(TaskStatus)}")
    type_, queue = query.get("type"), query.get("queue")
    mistakes.type(type_)
    mistakes.text("queue", queue)
    mistakes.refuse("InvalidQuery", " ")
    return TaskFilter(after=cursor, status=status, type=type_, queue=queue), limit


def parse_all_or_none(query: QueryParams | Mapping[str, str]) -> bool:
    """Return whether a bulk request wants all of its tasks or none.

    Raises:
        Rejected: `InvalidQuery`.
    """
    mistakes = _Mistakes()
    for name, value in query.items():
        if name != "all_or_none":
            mistakes.note(name, "is not a parameter of this route")
        elif value not in {"true", "false"}:
            mistakes.note(name, "must be true or false")
    mistakes.refuse("InvalidQuery", " ")
    return query.get("all_or_none") == "true"


def parse_id(text: str) -> UUID | None:
    """Return a task id, or None if the text is not a task id."""
    try:
        id_ = UUID(text)
    except ValueError:
        return None
    return id_ if str(id_) == text.lower() else None


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes) -> Any:
    if not text:
        raise Rejected("InvalidBody", "the body is empty: send a JSON object")
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        _Mistakes([_located(str(error))]).refuse()
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Rejected("InvalidBody", f"the body is not valid JSON: {str(error)[:200]}") from error


def _whole(text: str) -> int:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else -1


def _located(message: str) -> Problem:
    """Split msgspec's "… - at `$.path`" into path and message."""
    what, _, where = message.partition(" - at `$")
    field = re.search(r"field `([^`]+)`", what)
    path = where.rstrip("`").lstrip(".") or (field.group(1) if field else "body")
    return Problem(path=path, message=what)

"""Checks the JSON text of a payload against what Postgres can store and against its type's schema."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from dtq.domain.errors import Problem, Rejected, Unavailable
from dtq.domain.json_text import NUMBER_DIGITS_MAX, has_long_number, has_nul, keep_number_kinds
from dtq.domain.schema_work import work_of
from dtq.domain.schemas import PayloadValidator, check_schema

LIGHT_SCHEMA_BYTES: Final = 8_192
"""Largest schema that is compiled where requests are served, in bytes: its work is counted within milliseconds."""
LIGHT_PATTERNS: Final = 8
"""Most patterns of such a schema: each takes up to a few milliseconds to compile."""
LIGHT_BYTES: Final = 16_384
"""Largest payload that is checked where requests are served, in bytes: it is scanned and decoded within 1 ms."""
LIGHT_WORK: Final = 400_000
"""Largest product of a payload's bytes and its schema's keywords that is checked there: a few milliseconds."""

_decoder = msgspec.json.Decoder()


@dataclass(frozen=True, slots=True)
class PayloadRules:
    """What payloads of a type must satisfy.

    Attributes:
        validator: checks the schema; None if there is no schema, or if this release cannot read it.
        problems: why this release cannot read the schema.
        work: keywords that apply at one place of a payload, see `schema_work`.
    """

    type: str
    validator: PayloadValidator | None = None
    problems: tuple[Problem, ...] = ()
    work: int = 1

    @classmethod
    def of(cls, type_: str, schema: Mapping[str, Any] | None) -> "PayloadRules":
        """Compile a schema; one that is not allowed is kept with the reasons."""
        if schema is None:
            return cls(type_)
        problems = check_schema(schema)
        return cls(type_, None, problems) if problems else cls(type_, PayloadValidator(schema), (), work_of(schema))

    def is_light(self, text: bytes) -> bool:
        """Return whether checking this payload takes a few milliseconds at most."""
        return len(text) <= LIGHT_BYTES and len(text) * self.work <= LIGHT_WORK

    def checked(self, text: bytes) -> bytes:
        """Return the text to store.

        Raises:
            Rejected: `InvalidBody`, `InvalidPayload` or `PayloadTooLarge`.
            Unavailable: this release cannot read the stored schema, so it accepts no payload.
        """
        if has_nul(text):
            raise _wrong("has a NUL character (\\u0000), which cannot be stored")
        if has_long_number(text):
            raise _wrong(f"has a number of {NUMBER_DIGITS_MAX} digits or more")
        try:
            stored = keep_number_kinds(text)
        except ValueError as error:
            raise Rejected("PayloadTooLarge", f"the payload is too large: {error}") from error
        try:
            payload = _decoder.decode(stored)
        except (msgspec.DecodeError, RecursionError, ValueError) as error:
            raise Rejected("InvalidBody", f"the payload is not valid JSON: {str(error)[:200]}") from error
        if self.problems:
            problem = self.problems[0]
            raise Unavailable(
                f"the payload schema of type {self.type!r} cannot be read by this release"
                f" ({problem.path}: {problem.message}): update this API, or apply the TaskType again"
            )
        if self.validator and (problems := self.validator.problems(payload, len(stored))):
            raise Rejected("InvalidPayload", f"the payload does not satisfy the schema of {self.type}", problems)
        return stored


def is_light_schema(text: bytes) -> bool:
    """Return whether a schema may be compiled where requests are served."""
    return len(text) <= LIGHT_SCHEMA_BYTES and text.count(b'"pattern') <= LIGHT_PATTERNS


def _wrong(message: str) -> Rejected:
    return Rejected("InvalidBody", f"payload: {message}", (Problem(path="payload", message=message),))

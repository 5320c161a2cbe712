"""Payload schemas: which are allowed, and whether a payload is valid. The only module that uses jsonschema-rs.

A schema is checked as any input is: no remote `$ref` is followed, patterns run in linear time, and size, depth, `$ref`
and branches are bounded. Messages never show a payload's values.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import jsonschema_rs

from dtq.domain import limits
from dtq.domain.errors import Problem
from dtq.domain.schema_work import BRANCHING, REFERENCES, TooMuchWork, target_of, work_of

PROBLEMS_MAX: Final = 10
"""Most problems reported for one payload: enough to act on, bounded for a hostile payload."""
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The only supported dialect."""
MESSAGE_CHARS_MAX: Final = 300
"""Longest path and longest message of a problem, in characters: the keys of a payload would be echoed otherwise."""
MULTIPLE_MIN: Final = 1e-12
"""Smallest `multipleOf`: the division is exact, and its cost grows with the digits."""
_COUNTS_MAX: Final[Mapping[str, int]] = {
    "references": limits.SCHEMA_REFS_MAX,
    "branches of anyOf/oneOf/allOf": limits.SCHEMA_BRANCHES_MAX,
    "patterns": limits.SCHEMA_PATTERNS_MAX,
}
_ALL_PROBLEMS_BYTES: Final = 1_024
"""Largest payload whose problems are all looked for, in bytes: the library finds every problem before it tells one."""
_MASK: Final = "the value"


class PayloadValidator:
    """A compiled schema.

    Raises:
        ValueError: the schema is not valid; call `check_schema` for the reasons.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _compiled(schema, mask=_MASK)

    def problems(self, payload: Any, size: int) -> tuple[Problem, ...]:
        """Return what is wrong with a payload of `size` bytes, without its values: at most PROBLEMS_MAX problems.

        Of a large payload only the first problem is returned.
        """
        try:
            self._validator.validate(payload)
        except jsonschema_rs.ValidationError as first:
            errors = self._validator.iter_errors(payload) if size <= _ALL_PROBLEMS_BYTES else iter([first])
            return tuple(
                Problem(path=_shortened(_pointer(error.instance_path)), message=_shortened(error.message))
                for error in islice(errors, PROBLEMS_MAX)
            )
        return ()


def _compiled(schema: Mapping[str, Any], *, mask: str | None) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        dict(schema),
        offline=True,
        mask=mask,
        validate_formats=True,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=limits.SCHEMA_REGEX_BYTES_MAX),
    )


def check_schema(schema: Mapping[str, Any]) -> tuple[Problem, ...]:
    """Return why a payload schema is not allowed; empty if it is allowed."""
    size = len(json.dumps(schema).encode())
    if size > limits.SCHEMA_BYTES_MAX:
        return (_problem("", f"the schema has {size} bytes; at most {limits.SCHEMA_BYTES_MAX} are allowed"),)
    draft = schema.get("$schema", DRAFT)
    if not isinstance(draft, str) or draft.rstrip("#") != DRAFT:
        return (_problem("/$schema", f"only draft 2020-12 is supported: write {DRAFT}, or remove $schema"),)
    return tuple(_structural_problems(schema)) or tuple(_meaning_problems(schema))


def _meaning_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        work_of(schema)
        _compiled(schema, mask=None)
    except TooMuchWork as error:
        yield _problem("", str(error))
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"/{part}" for part in error.instance_path)
        yield _problem(path or _unresolved(schema), f"not a JSON Schema 2020-12: {error.message[:MESSAGE_CHARS_MAX]}")
    except ValueError as error:
        yield _problem("", f"not a JSON Schema 2020-12: {str(error).splitlines()[0][:MESSAGE_CHARS_MAX]}")


def _unresolved(schema: Mapping[str, Any]) -> str:
    """Return the path of the first JSON Pointer without a target, or "": the library names only the target."""
    for path, _, key, value in _entries(schema):
        if key in REFERENCES and isinstance(value, str) and value.startswith("#/"):
            try:
                target_of(schema, value)
            except LookupError:
                return f"{path}/{key}"
    return ""


def _structural_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    counts: Counter[str] = Counter()
    for path, depth, key, value in _entries(schema):
        if depth > limits.SCHEMA_DEPTH_MAX:
            yield _problem(path, f"nested deeper than {limits.SCHEMA_DEPTH_MAX} levels: flatten it, or use $defs")
            return
        if trouble := _trouble(path, key, value):
            yield _problem(f"{path}/{key}", trouble)
        counts["references"] += key in REFERENCES and isinstance(value, str)
        counts["branches of anyOf/oneOf/allOf"] += len(value) if key in BRANCHING and isinstance(value, list) else 0
        counts["patterns"] += key == "pattern" and isinstance(value, str)
        counts["patterns"] += len(value) if key == "patternProperties" and isinstance(value, dict) else 0
    for what, most in _COUNTS_MAX.items():
        if counts[what] > most:
            yield _problem("", f"{counts[what]} {what}; at most {most} are allowed")


def _entries(schema: Mapping[str, Any]) -> Iterator[tuple[str, int, str, Any]]:
    """Yield every key of every object: the object's path and depth, the key and its value."""
    todo: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while todo:
        node, path, depth = todo.pop()
        if isinstance(node, list):
            todo += [(value, f"{path}/{at}", depth + 1) for at, value in enumerate(node)]
        if isinstance(node, dict):
            for key, value in node.items():
                yield path, depth, key, value
                todo.append((value, f"{path}/{key}", depth + 1))


def _trouble(path: str, key: str, value: Any) -> str | None:
    if key in REFERENCES and isinstance(value, str) and not value.startswith("#"):
        return "only references inside the schema are allowed: begin it with #"
    if key == "multipleOf" and isinstance(value, int | float) and value < MULTIPLE_MIN:
        return f"is below {MULTIPLE_MIN}: exact division would take too long"
    if key == "$id" and isinstance(value, str) and path:
        return "only the whole schema may have an $id: references inside would change"
    return None


def _problem(path: str, message: str) -> Problem:
    return Problem(path=f"spec.payloadSchema{path}", message=message)


def _pointer(path: list[str | int]) -> str:
    return "/".join(["payload", *map(str, path)])


def _shortened(text: str) -> str:
    return text if len(text) <= MESSAGE_CHARS_MAX else f"{text[: MESSAGE_CHARS_MAX - 1]}…"

"""Payload schemas: which are allowed, and whether a payload is valid. The only module that uses jsonschema-rs.

A schema is untrusted input: no remote `$ref` is followed, patterns run in linear time, and size, depth, `$ref` and
branches are bounded. Messages never show a payload's values.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

import jsonschema_rs

from dtq.domain import limits
from dtq.domain.errors import Problem

PROBLEMS_MAX: Final = 10
"""Most problems reported for one payload: enough to act on, bounded for a hostile payload."""
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
"""The only supported dialect."""
_BRANCHING: Final = frozenset({"anyOf", "oneOf", "allOf"})
_REFERENCES: Final = frozenset({"$ref", "$dynamicRef"})
_MASK: Final = "the value"


class PayloadValidator:
    """A compiled schema.

    Raises:
        ValueError: the schema is not valid; call `check_schema` for the reasons.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._validator = _compiled(schema, mask=_MASK)

    def problems(self, payload: Any) -> tuple[Problem, ...]:
        """Return what is wrong with a payload, at most PROBLEMS_MAX problems, without its values."""
        if self._validator.is_valid(payload):
            return ()
        found = []
        for error in self._validator.iter_errors(payload):
            found.append(Problem(path=_pointer(error.instance_path), message=error.message))
            if len(found) == PROBLEMS_MAX:
                break
        return tuple(found)


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
    problems = tuple(_structural_problems(schema))
    if problems:
        return problems
    try:
        _compiled(schema, mask=None)
    except jsonschema_rs.ValidationError as error:
        path = "".join(f"/{part}" for part in error.instance_path)
        return (_problem(path or _unresolved(schema), f"not a JSON Schema 2020-12: {error.message[:300]}"),)
    except ValueError as error:
        return (_problem("", f"not a JSON Schema 2020-12: {str(error).splitlines()[0][:300]}"),)
    return ()


def _unresolved(schema: Mapping[str, Any]) -> str:
    """Return the path of the first dangling reference, or "": the library names only its target."""
    todo: list[tuple[Any, str]] = [(schema, "")]
    while todo:
        node, path = todo.pop()
        if isinstance(node, list):
            todo += [(value, f"{path}/{at}") for at, value in enumerate(node)]
        if not isinstance(node, dict):
            continue
        for key, value in node.items():
            if key in _REFERENCES and isinstance(value, str) and not _leads_somewhere(schema, value):
                return f"{path}/{key}"
            todo.append((value, f"{path}/{key}"))
    return ""


def _leads_somewhere(schema: Mapping[str, Any], reference: str) -> bool:
    """Return whether a JSON Pointer inside the schema has a target; other references are assumed to have a target."""
    if not reference.startswith("#/"):
        return True
    node: Any = schema
    for part in unquote(reference[2:]).split("/"):
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list) and key.isdigit() and int(key) < len(node):
            node = node[int(key)]
        elif isinstance(node, dict) and key in node:
            node = node[key]
        else:
            return False
    return True


def _structural_problems(schema: Mapping[str, Any]) -> Iterator[Problem]:
    refs = branches = 0
    todo: list[tuple[Any, str, int]] = [(schema, "", 0)]
    while todo:
        node, path, depth = todo.pop()
        if depth > limits.SCHEMA_DEPTH_MAX:
            yield _problem(path, f"nested deeper than {limits.SCHEMA_DEPTH_MAX} levels: flatten it, or use $defs")
            return
        if isinstance(node, list):
            todo += [(value, f"{path}/{at}", depth + 1) for at, value in enumerate(node)]
        if not isinstance(node, dict):
            continue
        for key, value in node.items():
            if key in _REFERENCES and isinstance(value, str):
                refs += 1
                if not value.startswith("#"):
                    yield _problem(f"{path}/{key}", "only references inside the schema are allowed: begin it with #")
            branches += len(value) if key in _BRANCHING and isinstance(value, list) else 0
            todo.append((value, f"{path}/{key}", depth + 1))
    if refs > limits.SCHEMA_REFS_MAX:
        yield _problem("", f"{refs} references; at most {limits.SCHEMA_REFS_MAX} are allowed")
    if branches > limits.SCHEMA_BRANCHES_MAX:
        yield _problem(
            "", f"{branches} branches of anyOf/oneOf/allOf; at most {limits.SCHEMA_BRANCHES_MAX} are allowed"
        )


def _problem(path: str, message: str) -> Problem:
    return Problem(path=f"spec.payloadSchema{path}", message=message)


def _pointer(path: list[str | int]) -> str:
    return "/".join(["payload", *map(str, path)])

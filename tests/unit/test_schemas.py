"""Payload schemas: what is refused says where in the schema it stands."""

from typing import Any

import pytest

from dtq.domain.schemas import check_schema

WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "an unknown type": ({"properties": {"a": {"type": "text"}}}, "/properties/a/type", "text"),
    "a number in words": ({"$defs": {"b": {"minimum": "3"}}}, "/$defs/b/minimum", "number"),
    "a list where a map is meant": ({"properties": []}, "/properties", "object"),
    "a pattern that is none": (
        {"properties": {"a": {"items": {"pattern": "("}}}},
        "/properties/a/items/pattern",
        "regex",
    ),
    "a pattern that looks ahead": ({"anyOf": [True, {"pattern": "(?=a)b"}]}, "/anyOf/1/pattern", "regex"),
    "a pattern that explodes": ({"pattern": "(a{1000}){1000}"}, "/pattern", "regex"),
    "a pattern as a name": ({"patternProperties": {"(": {}}}, "/patternProperties/(", "regex"),
    "a reference to nothing": ({"properties": {"a": {"$ref": "#/$defs/none"}}}, "/properties/a/$ref", "/$defs/none"),
    "a reference into a list": (
        {"allOf": [{"type": "object"}], "properties": {"a": {"$ref": "#/allOf/1"}}},
        "/properties/a/$ref",
        "/allOf/1",
    ),
    "a remote reference": ({"items": {"$ref": "https://example.com/x"}}, "/items/$ref", "inside the schema"),
    "another draft": ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "2020-12"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_schema_that_is_refused_says_where(kind: str) -> None:
    schema, path, word = WRONG[kind]
    (problem, *_) = check_schema(schema)
    assert problem.path == f"spec.payloadSchema{path}"
    assert word in problem.message


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a/b": {"type": "string"}}, "properties": {"x": {"$ref": "#/$defs/a~1b"}}},
        {"$defs": {"a": {"$anchor": "here"}}, "properties": {"x": {"$ref": "#here"}}},
        {"properties": {"x": {"$ref": "#"}}},
        {"const": {"$ref": "#/not/a/reference"}},
    ],
)
def test_a_reference_that_leads_somewhere_is_accepted(schema: dict[str, Any]) -> None:
    assert check_schema(schema) == ()

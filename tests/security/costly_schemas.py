"""Payload schemas whose validation may cost far more than their size, and a payload that makes it so."""

from typing import Any, Final


def doubling(levels: int, keyword: str) -> dict[str, Any]:
    """A schema that demands 2**levels evaluations in place, through references."""
    definitions: dict[str, Any] = {f"l{levels}": {"type": "integer"}}
    for level in range(levels):
        deeper = {"$ref": f"#/$defs/l{level + 1}"}
        definitions[f"l{level}"] = {
            "if": {"if": deeper, "then": deeper},
            "not": {"not": deeper, "if": deeper},
            "dependentSchemas": {"dependentSchemas": {"a": deeper, "b": deeper}},
        }.get(keyword, {keyword: [deeper, deeper]})
    return {"$defs": definitions, "$ref": "#/$defs/l0"}


def nested(levels: int) -> Any:
    value: Any = {}
    for _ in range(levels):
        value = {"a": value}
    return value


def in_branches(count: int, keyword: str = "anyOf") -> dict[str, Any]:
    """A schema that recurses in each of `count` branches: count**levels evaluations."""
    return {keyword: [{"properties": {"a": {"$ref": "#"}}, "required": [f"x{n}"]} for n in range(count)]}


REFUSED: Final[dict[str, tuple[dict[str, Any], str]]] = {
    **{
        f"{keyword} doubles": (doubling(16, keyword), "multiply")
        for keyword in ("allOf", "anyOf", "oneOf", "if", "not", "dependentSchemas")
    },
    "ninety levels of if": (doubling(90, "if"), "multiply"),
    "recursion in two branches": (in_branches(2), "one branch only"),
    "recursion in four branches of allOf": (in_branches(4, "allOf"), "one branch only"),
    "recursion in every item and in the first": (
        {"prefixItems": [{"$ref": "#"}], "items": {"$ref": "#"}, "contains": {"$ref": "#"}},
        "one branch only",
    ),
    "recursion under two patterns": (
        {"patternProperties": {"^a": {"$ref": "#"}, "a$": {"$ref": "#"}}},
        "one branch only",
    ),
    "recursion by anchor, twice": (
        {"$dynamicAnchor": "node", "allOf": [{"items": {"$dynamicRef": "#node"}}, {"items": {"$dynamicRef": "#node"}}]},
        "one branch only",
    ),
    "unevaluated properties at each level": (
        {
            "$defs": {
                f"l{n}": {"$ref": f"#/$defs/l{n + 1}", "unevaluatedProperties": {"type": "null"}} for n in range(20)
            }
            | {"l20": {}},
            "$ref": "#/$defs/l0",
        },
        "multiply",
    ),
    "a reference to itself": ({"$ref": "#"}, "leads back to itself"),
    "not itself": ({"not": {"$ref": "#"}}, "leads back to itself"),
    "a dynamic reference to itself": ({"$dynamicAnchor": "x", "allOf": [{"$dynamicRef": "#x"}]}, "leads back"),
    "a list of objects to compare with": ({"items": {"enum": [{"a": n} for n in range(3_000)]}}, "keywords"),
    "a list of fractions to compare with": ({"items": {"enum": [n + 0.5 for n in range(3_000)]}}, "keywords"),
    "a tiny multiple": ({"items": {"multipleOf": 1e-300}}, "exact division"),
    "an identifier inside": ({"properties": {"a": {"$id": "http://127.0.0.1:9/x", "$ref": "#/b"}}}, "$id"),
    "many patterns": ({"patternProperties": {f"^a*b{n}": {} for n in range(100)}}, "100 patterns"),
}
"""Schema, and a word of the refusal."""

ALLOWED: Final[dict[str, dict[str, Any]]] = {
    "a list": {"properties": {"value": {}, "next": {"$ref": "#"}}, "required": ["value"]},
    "a binary tree": {"properties": {"left": {"$ref": "#"}, "right": {"$ref": "#"}, "value": {"type": "number"}}},
    "a tree of folders": {
        "$defs": {
            "file": {"properties": {"kind": {"const": "file"}, "size": {"type": "integer"}}},
            "folder": {
                "properties": {"kind": {"const": "folder"}, "children": {"items": {"$ref": "#/$defs/entry"}}},
            },
            "entry": {"oneOf": [{"$ref": "#/$defs/file"}, {"$ref": "#/$defs/folder"}]},
        },
        "$ref": "#/$defs/entry",
    },
    "a union of sixty objects": {
        "oneOf": [
            {
                "type": "object",
                "required": ["kind", "id"],
                "properties": {"kind": {"const": f"k{n}"}, "id": {"type": "string"}, f"f{n}": {"type": "integer"}},
                "additionalProperties": False,
            }
            for n in range(60)
        ]
    },
    "a list of six thousand words": {"items": {"enum": [f"v{n}" for n in range(6_000)]}},
    "two hundred fields of a shared kind": {
        "$defs": {"name": {"type": "string", "minLength": 1, "maxLength": 80}},
        "properties": {f"f{n}": {"$ref": "#/$defs/name"} for n in range(190)},
        "additionalProperties": False,
    },
    "a property with the name of a keyword": {
        "properties": {"$id": {"type": "string"}, "pattern": {"type": "string"}, "multipleOf": {"type": "number"}},
    },
}

COSTLY: Final[dict[str, tuple[dict[str, Any], Any]]] = {
    "a pattern that backtracks elsewhere": ({"type": "string", "pattern": "^(a+)+$"}, "a" * 1_000_000 + "!"),
    "a pattern with many states": ({"type": "string", "pattern": "[ab]*a[ab]{3000}c"}, "ab" * 500_000),
    "names checked by a pattern": (
        {"propertyNames": {"pattern": "[ab]*a[ab]{400}c"}},
        {"ab" * 250_000 + str(n): 1 for n in range(2)},
    ),
    "unique objects": ({"uniqueItems": True}, [{"a": n} for n in range(70_000)]),
    "a word that is not in a long list": (
        {"items": {"enum": [f"v{n}" for n in range(6_000)]}},
        [f"q{n}" for n in range(100_000)],
    ),
    "numbers where an enum wants words": (
        {"properties": {"c": {"items": {"enum": [f"v{n}" for n in range(200)]}}}},
        {"c": [0] * 130_000},
    ),
    "an error at every item": ({"items": {"oneOf": [{"type": "string"}] * 60}}, list(range(150_000))),
    "keys that are all too many": ({"additionalProperties": False}, {f"k{n}": 0 for n in range(90_000)}),
    "objects without what they need": ({"items": {"type": "object", "required": ["a", "b"]}}, [0] * 500_000),
    "whole numbers of 900 digits": ({"items": {"multipleOf": 7}}, [10**900 + n for n in range(1_100)]),
    "a union at every item": (
        {"items": {"oneOf": [{"type": "object", "required": [f"a{n}"]} for n in range(60)]}},
        [{"z": 1} for _ in range(100_000)],
    ),
    "a name in many scripts": ({"format": "idn-hostname"}, "é" * 300_000),
    "many formats": (
        {"allOf": [{"format": name} for name in ("ipv6", "date", "uuid", "iri", "duration")]},
        "1" * 900_000,
    ),
    "a deep tree": ({"properties": {"a": {"$ref": "#"}}, "required": ["a"]}, nested(600)),
}
"""Allowed schema, and a payload of up to 1 MiB that does not satisfy it or takes long."""

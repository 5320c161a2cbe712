"""Bounds the work that a payload schema can cause, whatever the payload: a small schema can demand exponential work.

Work is counted in keywords: the most that are evaluated at one place of a payload (an object, a list or a scalar).
Subschemas apply in place (`allOf`, `if`, `$ref` ...) or to the children of that place (`properties`, `items` ...).
Keywords are those of JSON Schema 2020-12, Core section 10 and Validation.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import unquote

from dtq.domain import limits

REFERENCES: Final = frozenset({"$ref", "$dynamicRef"})
BRANCHING: Final = frozenset({"anyOf", "oneOf", "allOf"})
_CONDITIONAL: Final = frozenset({"if", "then", "else", "not"})
_ANY_KEY, _ANY_ITEM = "any key", "any item"
_ANY_CHILD: Final[Mapping[str, str]] = {
    "additionalProperties": _ANY_KEY,
    "unevaluatedProperties": _ANY_KEY,
    "items": _ANY_ITEM,
    "contains": _ANY_ITEM,
    "unevaluatedItems": _ANY_ITEM,
    "propertyNames": "the name of a key",
}
_EVALUATED_AGAIN: Final = frozenset({"unevaluatedProperties", "unevaluatedItems"})
"""Keywords that make a validator ask every subschema in place a second time."""

Schema = Mapping[str, Any] | bool
Place = tuple[str, str | int]
"""What a subschema applies to below a place: a kind of child, and which one."""


class TooMuchWork(ValueError):
    """The schema can demand more work than is allowed; the message says how."""


def work_of(schema: Mapping[str, Any]) -> int:
    """Return the most keywords that are evaluated at one place of any payload.

    Raises:
        TooMuchWork: more than SCHEMA_WORK_MAX, or a reference that leads back to itself at the same place.
    """
    graph = _Graph(schema)
    try:
        return graph.most(schema)
    except RecursionError as error:
        raise TooMuchWork("its references nest too deeply") from error


def target_of(schema: Mapping[str, Any], reference: str) -> Any:
    """Return what a JSON Pointer reference (`#/...`) inside the schema names.

    Raises:
        LookupError: nothing.
    """
    node: Any = schema
    for part in unquote(reference[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, list):
            node = dict(enumerate(node))
        key = int(name) if name.isdigit() and name not in node else name
        node = (node if isinstance(node, dict) else {})[key]
    return node


class _Graph:
    """The schemas reachable from a root: which apply together in place, and which apply to each child."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._anchors = {name: node for node in _objects(root) for name in _anchors(node)}
        self._together: dict[int, Counter[int]] = {}
        self._nodes: dict[int, Schema] = {}
        self._own: dict[int, int] = {}
        self._below: dict[int, list[Counter[int]]] = {}

    def most(self, schema: Schema) -> int:
        """Go down level by level: what may apply at one place `levels` below each schema."""
        start, most = self._add(schema), 0
        work = self._own
        for _ in range(limits.SCHEMA_WORK_LEVELS):
            most = max(most, work[start])
            if most > limits.SCHEMA_WORK_MAX:
                raise TooMuchWork(
                    f"more than {limits.SCHEMA_WORK_MAX} keywords can apply at one place of a payload: branches and"
                    " references multiply; recurse in one branch only, and share what the branches have in common"
                )
            deeper = {
                node: min(
                    max((sum(count * work[child] for child, count in place.items()) for place in places), default=0),
                    limits.SCHEMA_WORK_MAX + 1,
                )
                for node, places in self._below.items()
            }
            if deeper == work or not any(deeper.values()):
                break
            work = deeper
        return most

    def _add(self, schema: Schema) -> int:
        """Add a schema and those that apply to its children; return its key."""
        first = id(schema)
        todo = [schema]
        while todo:
            node = todo.pop()
            if id(node) in self._own:
                continue
            together = self._in_place(node, ())
            self._own[id(node)] = sum(count * _keywords(self._nodes[key]) for key, count in together.items())
            places: dict[Place, Counter[int]] = {}
            for key, count in together.items():
                for place, child in _children(self._nodes[key]):
                    places.setdefault(place, Counter())[id(child)] += count
                    todo.append(child)
            self._below[id(node)] = _overlapping(places)
        return first

    def _in_place(self, schema: Schema, path: tuple[int, ...]) -> Counter[int]:
        """Return how often each schema applies at the place of this one."""
        key = id(schema)
        if key in path:
            raise TooMuchWork("a reference leads back to itself at the same place of the payload")
        if key not in self._together:
            self._nodes[key] = schema
            together = Counter({key: 1})
            for part in self._parts(schema):
                for other, count in self._in_place(part, (*path, key)).items():
                    together[other] += count
            if isinstance(schema, dict) and schema.keys() & _EVALUATED_AGAIN:
                together = Counter({other: 2 * count for other, count in together.items()})
            if together.total() > limits.SCHEMA_WORK_MAX:
                raise TooMuchWork(
                    f"more than {limits.SCHEMA_WORK_MAX} subschemas apply at one place of a payload: branches and"
                    " references multiply"
                )
            self._together[key] = together
        return self._together[key]

    def _parts(self, schema: Schema) -> Iterator[Schema]:
        if not isinstance(schema, dict):
            return
        for key, value in schema.items():
            if key in BRANCHING and isinstance(value, list):
                yield from value
            elif key in _CONDITIONAL:
                yield value
            elif key == "dependentSchemas" and isinstance(value, dict):
                yield from value.values()
            elif key in REFERENCES and isinstance(value, str):
                try:
                    yield self._anchors[value[1:]] if value[1:] in self._anchors else target_of(self._root, value)
                except LookupError:
                    continue  # the compilation names it


def _children(schema: Schema) -> Iterator[tuple[Place, Schema]]:
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key == "properties" and isinstance(value, dict):
            yield from (((_ANY_KEY, name), child) for name, child in value.items())
        elif key == "patternProperties" and isinstance(value, dict):
            yield from (((_ANY_KEY, ""), child) for child in value.values())
        elif key == "prefixItems" and isinstance(value, list):
            yield from (((_ANY_ITEM, at), child) for at, child in enumerate(value))
        elif key in _ANY_CHILD:
            yield (_ANY_CHILD[key], ""), value


def _overlapping(places: Mapping[Place, Counter[int]]) -> list[Counter[int]]:
    """Return what applies to each kind of child: what is said of a key or item, and of all of them."""
    return [
        schemas if which == "" else schemas + places.get((kind, ""), Counter())
        for (kind, which), schemas in places.items()
    ]


def _keywords(schema: Schema) -> int:
    """Return the keywords of one schema; members of an enum that are compared one by one count too."""
    if not isinstance(schema, dict):
        return 1
    members = schema.get("enum")
    compared = sum(not isinstance(member, str | int) for member in members) if isinstance(members, list) else 0
    required = schema.get("required")
    return 1 + len(schema) + compared + (len(required) if isinstance(required, list) else 0)


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    todo = [schema]
    while todo:
        node = todo.pop()
        if isinstance(node, dict):
            yield node
            todo += node.values()
        elif isinstance(node, list):
            todo += node


def _anchors(node: Mapping[str, Any]) -> Iterator[str]:
    return (node[key] for key in ("$anchor", "$dynamicAnchor") if isinstance(node.get(key), str))

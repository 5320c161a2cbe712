"""Reads YAML as kubectl does, so that `dtq apply` and the operator see the same object.

kubectl knows strings, numbers, booleans and null: `1:30` and `2026-11-26` are strings, `yes` is true, 0755 is octal,
and a key is a string. Only plain data is read: no objects that a tag asks for, no aliases, no duplicate keys.
"""

import re
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import yaml

_STANDARD: Final = "tag:yaml.org,2002:"
_WORDS: Final[dict[str, bool | float | None]] = (
    dict.fromkeys(("", "~", "null", "Null", "NULL"))
    | dict.fromkeys(("y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"), True)
    | dict.fromkeys(("n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"), False)
    | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))
    | dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), float("inf"))
    | dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf"))
)
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_OCTAL: Final = re.compile(r"([-+]?)0([0-7]+)")
_INTEGER: Final = re.compile(r"[-+]?(0|[1-9][0-9]*|0[xX][0-9a-fA-F]+|0[oO][0-7]+|0[bB][01]+)")
_UNSIGNED: Final = range(-(2**63), 2**64)
"""What kubectl reads as an integer."""
_SIGNED: Final = range(-(2**63), 2**63)
"""What becomes an integer, including whole floats: JSON has one kind of number. Other numbers are floats."""


@dataclass(frozen=True, slots=True)
class Tagged:
    """A value with a tag that has no counterpart in JSON; the reader of the document refuses it by its path."""

    tag: str

    def __str__(self) -> str:
        """Return what is wrong with the value."""
        return f"tagged {self.tag}"


def documents(text: str) -> Iterator[Any]:
    """Yield the documents of a text, as JSON values; they may hold a `Tagged`, NaN or infinity.

    Raises:
        yaml.YAMLError: the text is not YAML, or has an alias, a duplicate key or a key that is not a string.
        RecursionError: the text is nested too deeply.
    """
    yield from yaml.load_all(text, Loader=_Loader)


def scalar(text: str) -> str | float | bool | None:
    """Return the value of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    if not text or text[0] not in "+-.0123456789":
        return text
    plain = text if text.startswith(".") else text.replace("_", "")
    number: int | None = None
    if octal := _OCTAL.fullmatch(plain):
        number = int(octal[1] + octal[2], 8)
    elif _INTEGER.fullmatch(plain):
        number = int(plain, 0)
    if number is not None and number in _UNSIGNED:
        return number if number in _SIGNED else float(number)
    if _FLOAT.fullmatch(plain):
        value = float(plain)
        if value in (float("inf"), float("-inf")):
            return text
        return int(value) if value.is_integer() and int(value) in _SIGNED else value
    return text


class _Loader(yaml.SafeLoader):
    """Reads plain data; the constructors below define each tag."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - as PyYAML's types have it
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def resolve(self, kind: type[yaml.Node], value: Any, implicit: Any) -> Any:
        """Return the tag of a node without a tag."""
        if kind is yaml.ScalarNode and implicit[0]:
            return _STANDARD + ("merge" if value == "<<" else "plain")
        return super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]  # PyYAML has no types here

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Refuse aliases: a few of them can expand to gigabytes."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", None)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002
        """Return a mapping; its keys must be distinct strings."""
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = _key(self.construct_object(key_node, deep=True), key_node)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        self.flatten_mapping(node)
        return {
            _key(self.construct_object(key_node, deep=True), key_node): self.construct_object(value_node, deep=deep)
            for key_node, value_node in node.value
        }


def _key(key: Any, node: yaml.Node) -> str:
    match key:
        case str():
            return key
        case bool():
            return "true" if key else "false"
        case int() | float():
            return str(key)
    raise yaml.constructor.ConstructorError(None, None, "a key must be a string", node.start_mark)


def _plain(loader: _Loader, node: yaml.ScalarNode) -> Any:
    return scalar(str(loader.construct_scalar(node)))


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


def _typed(*kinds: type) -> Callable[["_Loader", yaml.ScalarNode], Any]:
    """Return the constructor for a tag that requires one kind of value."""

    def construct(loader: _Loader, node: yaml.ScalarNode) -> Any:
        value = _plain(loader, node)
        return value if type(value) in kinds else Tagged(_shown(node.tag))

    return construct


def _tagged(_: _Loader, node: yaml.Node) -> Tagged:
    return Tagged(_shown(node.tag))


def _shown(tag: str) -> str:
    return tag.replace(_STANDARD, "!!")


for _name, _constructor in {
    "plain": _plain,
    "merge": _text,
    "str": _text,
    "timestamp": _text,
    "int": _typed(int),
    "float": _typed(int, float),
    "bool": _typed(bool),
    "null": _typed(type(None)),
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
}.items():
    _Loader.add_constructor(_STANDARD + _name, _constructor)
_Loader.add_constructor(None, _tagged)

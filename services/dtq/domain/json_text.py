"""JSON text before it is stored as jsonb: finds what Postgres refuses, and protects numbers that it would change.

The texts are scanned, not decoded; a scan for numbers skips the strings.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

NUMBER_DIGITS_MAX: Final = 1_000
"""Longest number, in digits: Postgres stores 131,072, Python refuses 4,300, and no payload needs it."""
GROWTH_BYTES_MAX: Final = 262_144
"""How much the numbers of a text may grow when Postgres writes them out, in bytes: each 1e308 becomes 309 digits."""
_WRITTEN_OUT_BYTES_MIN: Final = 4
"""The least that each number with an exponent counts for, in bytes: it bounds how many numbers are written out."""
_EXPONENT_CHARS: Final = 10
"""How much of an exponent is read, in characters: far more than GROWTH_BYTES_MAX has."""
_LONG_RUN: Final = b"0" * NUMBER_DIGITS_MAX
_DIGITS_AS_ZERO: Final = bytes.maketrans(b"123456789", b"0" * 9)

# An even run of backslashes escapes itself.
_NUL: Final = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
# Each pattern is possessive throughout: one pass over any text.
_OTHER: Final = rb'[^"0-9]++|"(?:[^"\\]++|\\.)*+"'
_LONG_NUMBER: Final = re.compile(rb"(?:%b|[0-9]{1,%d}+(?![0-9]))*+[0-9]" % (_OTHER, NUMBER_DIGITS_MAX - 1), re.DOTALL)
_MAY_HAVE_EXPONENT: Final = re.compile(rb"[0-9][eE]")
# Strings and zeros are passed over.
_EXPONENTS: Final = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"|(?<![0-9.])0(?:\.0++)?+[eE][+-]?[0-9]++|[0-9][eE]([+-]?[0-9]++)', re.DOTALL
)
# A negative exponent leaves digits after the decimal point, which jsonb keeps.
_NEXT_EXPONENT: Final = re.compile(
    rb"(?P<before>(?:%b|[0-9]++(?:\.[0-9]++)?+(?:[eE]-0*+[1-9][0-9]*+|(?![eE])))*+)"
    rb"(?P<whole>[0-9]++)(?:\.(?P<fraction>[0-9]++))?+[eE](?P<exponent>[+-]?[0-9]++)" % _OTHER,
    re.DOTALL,
)


def has_nul(text: bytes) -> bool:
    """Return whether a string in a JSON text has a NUL character, which Postgres cannot store."""
    return rb"\u0000" in text and _NUL.search(text) is not None


def has_long_number(text: bytes) -> bool:
    """Return whether a number in a JSON text has NUMBER_DIGITS_MAX digits in a row."""
    return _LONG_RUN in text.translate(_DIGITS_AS_ZERO) and _LONG_NUMBER.match(text) is not None


def keep_number_kinds(text: bytes) -> bytes:
    """Return a JSON text whose numbers keep their kind in jsonb: 1e300 would come back as an integer.

    Raises:
        ValueError: written out, the numbers would need more than GROWTH_BYTES_MAX.
    """
    if _MAY_HAVE_EXPONENT.search(text) is None:
        return text
    grown = 0
    for number in _EXPONENTS.finditer(text):
        if (exponent := number[1]) is not None:
            grown += max(_WRITTEN_OUT_BYTES_MIN, abs(int(exponent[:_EXPONENT_CHARS])))
            if grown > GROWTH_BYTES_MAX:
                raise ValueError(f"numbers such as 1e300 need over {GROWTH_BYTES_MAX} bytes when they are written out")
    parts: list[bytes] = []
    at = 0
    while found := _NEXT_EXPONENT.match(text, at):
        at = found.end()
        digits, zeros = _written_out(found)
        parts += (found["before"], digits, b"0" * zeros)
        if not digits.count(b"e"):
            parts.append(b".0")
    return b"".join([*parts, text[at:]]) if parts else text


def _written_out(number: re.Match[bytes]) -> tuple[bytes, int]:
    """Return the digits of a number with an exponent and the zeros to append, or the number unchanged."""
    whole, fraction = number["whole"], number["fraction"] or b""
    zeros = int(number["exponent"][:20]) - len(fraction)
    digits = (whole + fraction).lstrip(b"0")
    if zeros < 0:
        # jsonb keeps the digits after the decimal point.
        return number[0][len(number["before"]) :].replace(b"E", b"e"), 0
    return (digits, zeros) if digits else (b"0", 0)


def unstorable(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield each value of a decoded document that jsonb cannot hold: where it is, and what it is."""
    todo: list[tuple[Any, str]] = [(value, path)]
    while todo:
        node, where = todo.pop()
        match node:
            case str():
                if trouble := _text_trouble(node):
                    yield where, trouble
            case float() if math.isfinite(node):
                pass
            case None | bool() | int():
                pass
            case list():
                todo += [(part, f"{where}[{at}]") for at, part in reversed(list(enumerate(node)))]
            case dict():
                for key in node:
                    if isinstance(key, str) and (trouble := _text_trouble(key)):
                        yield where, f"has a key that {trouble}"
                todo += [(part, f"{where}.{key}" if where else str(key)) for key, part in reversed(node.items())]
            case _:
                yield where, f"is {node}, which is not JSON: write a string, a number or null"


def _text_trouble(text: str) -> str | None:
    if "\x00" in text:
        return "has a NUL character, which cannot be stored: remove it"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "has an unpaired surrogate, which cannot be stored: remove it"
    return None

"""JSON as text: what Postgres would refuse or change is found, and a string that looks like it is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.json_text import GROWTH_BYTES_MAX, has_long_number, has_nul, keep_number_kinds, unstorable

documents: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(documents)
def test_numbers_keep_value_and_kind_and_the_rest_is_as_it_was(document: Any) -> None:
    kept = json.loads(keep_number_kinds(json.dumps(document).encode()))
    assert kept == document
    assert json.dumps(kept) == json.dumps(document)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_whole_number_keeps_an_exponent(number: float) -> None:
    text = keep_number_kinds(json.dumps([number]).encode())
    assert b"e" not in text or b"e-" in text


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (b"1e3", b"1000.0"),
        (b"-1.5E+3", b"-1500.0"),
        (b"1.25e1", b"12.5"),
        (b"1e-3", b"0.001"),
        (b"0e999999999999", b"0.0"),
        (b"1e-0", b"1.0"),
        (b'"1e3"', b'"1e3"'),
        (b'{"1e3":"\\"1e3"}', b'{"1e3":"\\"1e3"}'),
        (b"7", b"7"),
    ],
)
def test_a_number_with_an_exponent_stays_a_float(text: bytes, kept: bytes) -> None:
    found = keep_number_kinds(text)
    assert json.loads(found) == json.loads(kept)
    assert type(json.loads(found)) is type(json.loads(kept))


def test_many_huge_numbers_are_refused_instead_of_written_out() -> None:
    with pytest.raises(ValueError, match=str(GROWTH_BYTES_MAX)):
        keep_number_kinds(b"[" + b",".join([b"1e308"] * 100_000) + b"]")


@pytest.mark.parametrize("backslashes", range(1, 7))
def test_only_an_odd_run_of_backslashes_escapes_a_nul(backslashes: int) -> None:
    text = b'"' + b"\\" * backslashes + b'u0000"'
    assert has_nul(text) == (backslashes % 2 == 1)
    assert has_nul(text) == ("\0" in json.loads(text))


@pytest.mark.parametrize(
    ("text", "has"),
    [
        (b"9" * 1000, True),
        (b"9" * 999, False),
        (b'["' + b"9" * 5000 + b'"]', False),
        (b'["a\\"' + b"9" * 5000 + b'"]', False),
        (b'{"a":"b","c":[1,-' + b"9" * 1000 + b"]}", True),
        (b"0." + b"9" * 1000, True),
        (b"[" + b"9," * 5000 + b"9]", False),
    ],
)
def test_a_long_text_of_digits_is_no_long_number(text: bytes, *, has: bool) -> None:
    assert has_long_number(text) == has


def test_what_cannot_be_stored_is_named_by_its_path() -> None:
    document = {"a": [1, {"b": "x\0"}], "c": float("nan"), "d\0": 1, "e": "\ud800", "f": {1}, "ok": [None, True, "é"]}
    assert [path for path, _ in unstorable(document, "spec")] == [
        "spec", "spec.a[1].b", "spec.c", "spec.e", "spec.f",
    ]  # fmt: skip
    assert list(unstorable({"ok": [None, True, 1, 1.5, "é\n"]})) == []

"""Durations, envelopes and fairness: the small rules."""

import contextlib
import json
import math
from collections import deque
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.durations import parse_duration, parse_durations
from dtq.domain.envelope import Envelope, decode, encode
from dtq.domain.fairness import take_weighted

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("2m", 120), ("1h30m", 5400), ("250ms", 0.25), ("1.5s", 1.5), (" 10s\n", 10), ("0s", 0)],
)
def test_a_duration_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "s", "-1s", "1y", "∞", "5 s", "5s,", "1e3s", "infs", "nans", "0x5s", "5S", ".5s", "5s2", "\u0665s"],
)
def test_what_is_no_duration_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 5s"):
        parse_duration(text)


@given(st.text(max_size=30) | st.from_regex(r"[0-9.hms]{1,20}", fullmatch=True) | st.just("9" * 400 + "h"))
def test_any_text_is_a_finite_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert math.isfinite(seconds)
    assert seconds >= 0


def test_a_list_of_durations_has_no_gaps() -> None:
    assert parse_durations("5s,30s, 2m") == (5, 30, 120)
    for text in ("", "5s,", ",5s", "5s,,6s"):
        with pytest.raises(ValueError, match="not a duration"):
            parse_durations(text)


@given(st.uuids(), st.text())
def test_an_envelope_comes_back_as_it_was_sent(id_: UUID, type_: str) -> None:
    sent = Envelope(id=id_, type=type_)
    assert decode(encode(sent)) == sent


@given(st.uuids(), st.dictionaries(st.text(min_size=5), st.integers() | st.text(), max_size=5))
def test_further_keys_of_an_envelope_are_tolerated(id_: UUID, extra: dict[str, object]) -> None:
    body = json.dumps(extra | {"id": str(id_), "type": "a.v1"}).encode()
    assert decode(body) == Envelope(id=id_, type="a.v1")


def test_an_envelope_is_the_origins_json() -> None:
    id_ = UUID("0198c0de-0000-7000-8000-000000000001")
    assert json.loads(encode(Envelope(id=id_, type="a.v1"))) == {"id": str(id_), "type": "a.v1"}


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_garbage_is_no_envelope_and_nothing_worse(body: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b"[" * 100_000,
        b'{"id": 1, "type": "a.v1"}',
        b'{"id": "x", "type": "a.v1"}',
        b'{"id": "0198c0de-0000-7000-8000-000000000001"}',
        b'{"id": "0198c0de-0000-7000-8000-000000000001", "type": null}',
    ],
)
def test_a_body_that_names_no_task_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="not a valid envelope"):
        decode(body)


@given(st.lists(st.lists(st.integers(), max_size=30), max_size=6), st.integers(0, 100))
def test_taking_respects_the_limit_and_each_buffers_order_and_loses_nothing(
    contents: list[list[int]], limit: int
) -> None:
    buffers = [deque((at, item) for item in items) for at, items in enumerate(contents)]
    taken = take_weighted(buffers, limit)
    assert len(taken) == min(limit, sum(map(len, contents)))
    for at, items in enumerate(contents):
        assert [item for of, item in taken if of == at] + [item for _, item in buffers[at]] == items


@given(st.integers(2, 6), st.integers(1, 4))
def test_no_queue_starves_and_the_urgent_one_gets_most(count: int, rounds: int) -> None:
    round_size = count * (count + 1) // 2
    buffers = [deque([at] * 1000) for at in range(count)]
    taken = take_weighted(buffers, rounds * round_size)
    assert [taken.count(at) for at in range(count)] == [rounds * (count - at) for at in range(count)]

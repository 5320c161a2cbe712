"""Memory as evidence, how long a suspect waits, and how many messages a worker may hold."""

import pytest

from dtq.domain.memory import Memory, cause_of_death, parse_memory
from dtq.domain.suspects import FREE_SECONDS, HAND_ON_SECONDS, may_wait
from dtq.domain.window import window

MIB = 1 << 20


def told(used_mib: int, oom_kills: int = 0) -> Memory:
    return Memory(group="g", limit_bytes=256 * MIB, used_bytes=used_mib * MIB, oom_kills=oom_kills)


@pytest.mark.parametrize(
    ("last", "oom_kills_since", "says"),
    [
        (told(10), 1, "the kernel's OOM killer killed it at its memory limit of 256 MiB"),
        (told(10, oom_kills=3), 3, "if it ran out of memory"),
        (told(240), None, "94% of its memory limit of 256 MiB"),
        (told(10), None, "if it ran out of memory"),
        (None, 7, "if it ran out of memory"),
    ],
    ids=["killed", "others were killed before", "nearly full", "little used", "nothing told"],
)
def test_the_cause_says_what_is_known_and_how_to_give_more_memory(
    last: Memory | None, oom_kills_since: int | None, says: str
) -> None:
    cause = cause_of_death(last, oom_kills_since)
    assert says in cause
    assert "resources.limits.memory" in cause


INFINITE = '{"group": "g", "limit_bytes": 1e400, "used_bytes": 2, "oom_kills": 3}'


@pytest.mark.parametrize(
    "text", [None, "null", "[]", "7", "{", '{"group": "g"}', '{"group": "g", "limit_bytes": []}', INFINITE]
)
def test_what_cannot_be_understood_is_no_evidence(text: str | None) -> None:
    assert parse_memory(text) is None


def test_what_a_newer_worker_tells_besides_is_left_out() -> None:
    text = '{"group": "g", "limit_bytes": 1, "used_bytes": 2, "oom_kills": 3, "swap": {}}'
    assert parse_memory(text) == Memory(group="g", limit_bytes=1, used_bytes=2, oom_kills=3)


@pytest.mark.parametrize(
    ("waited", "suspected", "is_next", "stays"),
    [
        (0, 0, False, True),
        (HAND_ON_SECONDS, HAND_ON_SECONDS, True, False),
        (HAND_ON_SECONDS, FREE_SECONDS, True, True),
        (86_400, 90_000, True, True),
        (HAND_ON_SECONDS, 90_000, False, False),
    ],
    ids=["just met", "others may be free", "nobody is free", "it holds out", "not its turn"],
)
def test_a_suspect_is_handed_on_or_waits_for_a_busy_worker(
    waited: float, suspected: float, *, is_next: bool, stays: bool
) -> None:
    assert may_wait(waited_seconds=waited, suspected_seconds=suspected, is_next=is_next) is stays


@pytest.mark.parametrize(
    ("moving", "run_seconds", "held"),
    [
        (1, None, 1),
        (1, 6.0, 1),
        (1, 0.5, 2),
        (1, 0.0, 512),
        (32, None, 32),
        (32, 30.0, 32),
        (32, 0.1, 320),
        (0, 0.1, 0),
    ],
)
def test_the_window_is_what_can_be_started_soon(moving: int, run_seconds: float | None, held: int) -> None:
    assert window(moving=moving, run_seconds=run_seconds, most=512) == held

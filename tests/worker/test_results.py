"""What a handler may return or raise, and what the task says then, in every mode."""

import json
import re

import pytest

from tests.worker.world import Running, World

MODES = ["async", "thread", "process"]
TOO_LARGE = r"the result has 10485762 bytes; at most 262144 are kept"
NO_JSON = "the result cannot be written as JSON"

RESULTS = [
    ("nothing", "SUCCEEDED", None),
    ("number", "SUCCEEDED", 7),
    ("text", "SUCCEEDED", "ünï"),
    ("nested", "SUCCEEDED", {"a": [1, {"b": None}]}),
    ("time", "SUCCEEDED", "2026-01-01T00:00:00Z"),
    ("bytes", "SUCCEEDED", "YWJj"),
    ("set", "SUCCEEDED", [1]),
    ("nan", "SUCCEEDED", None),
    ("infinity", "SUCCEEDED", None),
    ("thread", "SUCCEEDED", "left"),
    ("big integer", "SUCCEEDED", 2**70),
    ("backslash", "SUCCEEDED", "\\u0000"),
    ("large number", "SUCCEEDED", [1e300, 5.0, 1e22]),
    ("opaque", "FAILED", NO_JSON),
    ("hostile", "FAILED", NO_JSON),
    ("circle", "FAILED", NO_JSON),
    ("odd keys", "FAILED", NO_JSON),
    ("surrogate", "FAILED", NO_JSON),
    ("huge", "FAILED", TOO_LARGE),
    ("nul", "FAILED", "NUL character"),
    ("generator", "FAILED", "returned a generator|of type generator"),
    ("async generator", "FAILED", "returned a async_generator|of type async_generator"),
    ("coroutine", "FAILED", "returned a coroutine|of type coroutine"),
]

ERRORS = [
    ("plain", r"^ValueError: plainly wrong$"),
    ("no words", r"^ValueError$"),
    ("huge message", r"^ValueError: x{1980,}…$"),
    ("nul message", r"^ValueError: a�b$"),
    ("surrogate message", r"^ValueError: \?$"),
    ("system exit", r"SystemExit: 3"),
    ("keyboard interrupt", r"KeyboardInterrupt"),
    ("weird", r"WeirdError: weirdly"),
    ("stop iteration", r"stopped|coroutine raised StopIteration"),
    ("generator exit", r"GeneratorExit"),
    ("cancelled", r"CancelledError: not by you|the handler cancelled itself"),
    ("timeout", r"^TimeoutError: its own$"),
    ("memory", r"^MemoryError: its own$"),
    ("group", r"many \(2 sub-exceptions\)"),
    ("permanent", r"never again"),
    ("unspeakable", r"^UnspeakableError: its message cannot be read: SystemExit$"),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "status", "told"), RESULTS, ids=[case[0] for case in RESULTS])
async def test_a_result_is_kept_or_the_task_fails_for_good_and_says_why(
    shared: tuple[World, Running], mode: str, name: str, status: str, told: object
) -> None:
    world, running = shared
    (id_,) = await world.enqueue(f"w.act.{mode}", max_attempts=3, gives=name)
    (row,) = await world.ended(id_)
    assert (row["status"], row["attempts"]) == (status, 1), row["last_error"]
    if status == "SUCCEEDED":
        assert repr(json.loads(row["result"] or "null")) == repr(told)
    else:
        assert re.search(str(told), row["last_error"]), row["last_error"]
        assert len(row["last_error"]) <= 2000
    assert await running.is_ready()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("name", "told"), ERRORS, ids=[case[0] for case in ERRORS])
async def test_whatever_a_handler_raises_ends_its_attempt_and_nothing_else(
    shared: tuple[World, Running], mode: str, name: str, told: str
) -> None:
    world, running = shared
    (id_,) = await world.enqueue(f"w.act.{mode}", raises=name)
    (row,) = await world.ended(id_)
    assert (row["status"], row["attempts"], row["crashes"]) == ("FAILED", 1, 0)
    assert re.search(told, row["last_error"]), row["last_error"]
    assert len(row["last_error"]) <= 2000
    assert await running.is_ready()


async def test_a_permanent_error_spends_no_further_attempt(shared: tuple[World, Running]) -> None:
    world, _ = shared
    for mode in MODES:
        (id_,) = await world.enqueue(f"w.act.{mode}", max_attempts=5, raises="permanent")
        (row,) = await world.ended(id_)
        assert (row["status"], row["attempts"]) == ("FAILED", 1)


@pytest.mark.parametrize(
    ("how", "status", "told"),
    [
        ("segfault", "FAILED", "the handler's process ended with signal 11"),
        ("abort", "FAILED", "the handler's process ended with signal 6"),
        ("kill", "FAILED", "the handler's process ended with signal 9"),
        ("exit 0", "FAILED", "the handler's process ended with exit code 0"),
        ("exit 3", "FAILED", "the handler's process ended with exit code 3"),
        ("out of memory", "FAILED", "MemoryError"),
        ("closes", "FAILED", "the handler's process ended"),
        ("prints", "SUCCEEDED", '"printed"'),
    ],
)
async def test_a_handler_that_ends_its_process_costs_an_attempt_and_hurts_nobody(
    shared: tuple[World, Running], how: str, status: str, told: str
) -> None:
    world, running = shared
    (id_,) = await world.enqueue("w.die", how=how)
    (row,) = await world.ended(id_)
    assert row["status"] == status, row["last_error"]
    assert told in (row["last_error"] or row["result"])
    assert await running.is_ready()
    (next_,) = await world.enqueue("w.die", how="pid")
    assert (await world.ended(next_))[0]["status"] == "SUCCEEDED"


async def test_a_child_process_sees_no_secret_of_the_worker(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DB_DSN", "RMQ_PASS"):
        monkeypatch.setenv(name, "secret")
    await world.declare("w.die", timeout_seconds=20)
    async with world.worker():
        (row,) = await world.ended(*(await world.enqueue("w.die", how="secrets")))
    assert (row["status"], json.loads(row["result"])) == ("SUCCEEDED", [])

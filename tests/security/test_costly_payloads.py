"""One caller's payload or one type's schema cannot make another caller wait."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
import pytest
import pytest_asyncio

from dtq.domain.catalog import TypePolicy
from dtq.domain.errors import Rejected
from dtq.domain.json_text import GROWTH_BYTES_MAX
from dtq.domain.limits import SCHEMA_WORK_MAX
from dtq.domain.schema_work import work_of
from dtq.domain.schemas import MESSAGE_CHARS_MAX, PROBLEMS_MAX, check_schema
from dtq.runtime.payload_child import NICENESS
from dtq_api.payload_checks import WAITING_MAX, WAITING_PER_TYPE, PayloadChecks
from tests.security.costly_bodies import PAYLOADS
from tests.security.costly_schemas import ALLOWED, COSTLY, REFUSED

LOOP_SECONDS: Final = 0.05
"""Most CPU time that the thread of the event loop may spend on one payload, in seconds."""
HEAVY: Final = b"[" + b",".join([b"[]"] * 300_000) + b"]"


def policy_of(type_: str, schema: dict[str, Any] | None) -> TypePolicy:
    return TypePolicy(
        type=type_,
        active=True,
        queue_set="default",
        queue="default",
        max_attempts=3,
        max_payload_bytes=1_048_576,
        payload_schema=schema,
    )


@pytest_asyncio.fixture(loop_scope="session")
async def checks() -> AsyncIterator[PayloadChecks]:
    """The checks of an API, with their processes started."""
    checks = PayloadChecks()
    await asyncio.gather(*(checks.checked(policy_of(f"warm.{n}", None), HEAVY) for n in range(2)))
    yield checks
    await checks.close()


async def test_a_check_stands_back_from_the_event_loop(checks: PayloadChecks) -> None:
    processes = [child._process for child in checks._free if child._process is not None]
    assert processes
    for process in processes:
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)


async def refusal(checks: PayloadChecks, policy: TypePolicy, text: bytes) -> Rejected | None:
    """Have a payload checked; return why it was refused, or None if it is stored as it is or somewhat larger."""
    try:
        stored = await checks.checked(policy, text)
    except Rejected as error:
        return error
    assert len(text) <= len(stored) <= len(text) + GROWTH_BYTES_MAX
    return None


@pytest.mark.parametrize("kind", REFUSED)
def test_a_schema_that_can_demand_too_much_work_is_refused(kind: str) -> None:
    schema, word = REFUSED[kind]
    problems = check_schema(schema)
    assert problems
    assert word in f"{problems[0].path} {problems[0].message}"


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_schema_that_demands_bounded_work_is_allowed(kind: str) -> None:
    assert check_schema(ALLOWED[kind]) == ()
    assert work_of(ALLOWED[kind]) <= SCHEMA_WORK_MAX


@pytest.mark.parametrize("kind", COSTLY)
async def test_a_costly_check_is_bounded_and_leaves_the_loop_alone(kind: str, checks: PayloadChecks) -> None:
    schema, payload = COSTLY[kind]
    assert check_schema(schema) == ()
    text = msgspec.json.encode(payload) if "digits" not in kind else str(payload).encode()
    before = time.thread_time()
    error = await refusal(checks, policy_of("costly.v1", schema), text)
    assert time.thread_time() - before < LOOP_SECONDS
    if error is not None:
        assert error.code == "InvalidPayload"
        assert len(error.problems) <= PROBLEMS_MAX
        texts = [str(error), *(text for problem in error.problems for text in (problem.path, problem.message))]
        assert max(map(len, texts)) <= MESSAGE_CHARS_MAX


@pytest.mark.parametrize("kind", PAYLOADS)
async def test_a_costly_text_is_checked_off_the_loop(kind: str, checks: PayloadChecks) -> None:
    before = time.thread_time()
    error = await refusal(checks, policy_of("plain.v1", None), PAYLOADS[kind])
    assert time.thread_time() - before < LOOP_SECONDS
    assert ("written out" in kind or "exponents" in kind) >= (error is not None)
    assert "uuids" not in kind or error is None


async def test_a_check_that_takes_too_much_cpu_is_ended_and_the_next_one_works(checks: PayloadChecks) -> None:
    # The schema is as a row of a newer release may hold it: this release did not check it when it was applied.
    endless = {"items": {"allOf": [{"multipleOf": 1e-11}] * 60}}
    numbers = b"[" + b",".join([b"9" * 990] * 1_000) + b"]"
    with pytest.raises(Rejected, match="CPU time: send a smaller payload") as caught:
        await checks.checked(policy_of("endless.v1", endless), numbers)
    assert caught.value.code == "InvalidPayload"
    assert await checks.checked(policy_of("endless.v1", endless), HEAVY.replace(b"[]", b'""')) is not None


async def test_a_light_payload_passes_while_heavy_ones_wait(checks: PayloadChecks) -> None:
    heavy = [asyncio.create_task(checks.checked(policy_of("heavy.v1", None), HEAVY)) for _ in range(20)]
    await asyncio.sleep(0)
    assert await checks.checked(policy_of("light.v1", {"type": "object"}), b"{}") == b"{}"
    assert not any(task.done() for task in heavy), "the light one waited for them"
    await asyncio.gather(*heavy)


async def test_the_types_take_turns(checks: PayloadChecks) -> None:
    ended: list[str] = []

    async def check(type_: str) -> None:
        await checks.checked(policy_of(type_, None), HEAVY)
        ended.append(type_)

    await asyncio.gather(*(check("many.v1") for _ in range(20)), check("one.v1"))
    assert ended.index("one.v1") <= 5, "one type's checks all came first"


async def test_too_many_checks_of_a_type_are_refused_and_another_type_is_served(checks: PayloadChecks) -> None:
    many = [checks.checked(policy_of("many.v1", None), HEAVY) for _ in range(WAITING_PER_TYPE + 10)]
    tasks = [asyncio.create_task(check) for check in many]
    other = asyncio.create_task(checks.checked(policy_of("other.v1", None), HEAVY))
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Rejected)]
    assert [answer.code for answer in refused] == ["TooManyRequests"] * len(refused)
    assert 0 < len(refused) <= 10
    assert await other == HEAVY
    assert WAITING_PER_TYPE < WAITING_MAX


async def test_the_child_ends_with_its_api(checks: PayloadChecks) -> None:
    process = checks._free[0]._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    assert await process.wait() == 0
    assert await checks.checked(policy_of("heavy.v1", None), HEAVY) == HEAVY, "the next one is checked by a new process"

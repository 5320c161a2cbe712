"""Waiting in tests: bounded even if a check hangs, and clear about what did not happen."""

import asyncio

import pytest

from tests.support.waiting import eventually


async def test_the_first_true_result_is_returned() -> None:
    results = iter([0, None, 7])

    async def check() -> int | None:
        return next(results)

    assert await eventually(check, "a number") == 7


async def test_a_failure_names_what_was_waited_for_and_the_last_result() -> None:
    async def check() -> str:
        return ""

    with pytest.raises(AssertionError, match=r"not within 0\.01 s: a word; last: ''"):
        await eventually(check, lambda: "a word", 0.01)


async def test_a_check_that_hangs_is_bounded() -> None:
    with pytest.raises(AssertionError, match=r"not within 0\.01 s: the end"):
        await eventually(lambda: asyncio.Event().wait(), "the end", 0.01)


async def test_a_timeout_of_the_check_itself_is_not_taken_for_the_bound() -> None:
    async def check() -> bool:
        raise TimeoutError("of the check")

    with pytest.raises(TimeoutError, match="of the check"):
        await eventually(check, "an answer")

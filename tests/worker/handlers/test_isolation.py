"""What the code of one task type can reach from its child process: nothing that belongs to another type."""

import asyncio
import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
import pytest_asyncio

from dtq.handlers import Context
from dtq_worker.processes import ChildError, Processes
from tests.worker.handlers.conftest import children

MODULE = "tests.worker.handlers.intruders"
CHILDREN_MAX = 2


def a_context(type_: str) -> Context:
    return Context(task_id=uuid4(), type=type_, queue="default", attempt=1, max_attempts=1, timeout_seconds=60.0)


@pytest_asyncio.fixture(loop_scope="session")
async def processes() -> AsyncIterator[Processes]:
    """A pool of two children."""
    pool = Processes([MODULE], children_max=CHILDREN_MAX)
    yield pool
    await pool.close()


async def ran(pool: Processes, type_: str, payload: str = "null") -> Any:
    """Run one task of a type; return its value."""
    return await pool.run(type_, payload, a_context(type_))


async def test_a_child_serves_one_type_only_and_is_kept_for_it(processes: Processes) -> None:
    first, other = await ran(processes, "intruder.pid"), await ran(processes, "intruder.other")
    assert first != other
    assert [await ran(processes, "intruder.pid"), await ran(processes, "intruder.other")] == [first, other]


async def test_an_idle_child_of_another_type_makes_room_for_a_new_one(processes: Processes) -> None:
    before = children(os.getpid())
    firsts = await asyncio.gather(*(ran(processes, "intruder.pid") for _ in range(CHILDREN_MAX)))
    other = await ran(processes, "intruder.other")
    now = set(children(os.getpid())) - set(before)
    assert len(now) == CHILDREN_MAX
    assert other in now
    assert len(now & set(firsts)) == CHILDREN_MAX - 1
    await asyncio.gather(*(ran(processes, "intruder.other") for _ in range(CHILDREN_MAX)))
    assert not set(children(os.getpid())) & set(firsts)


async def test_a_forged_answer_is_discarded_and_its_child_is_killed(processes: Processes) -> None:
    child = await ran(processes, "intruder.forger")
    with pytest.raises(ChildError, match="an answer that is not for this run") as refused:
        await ran(processes, "intruder.forger", '"before"')
    assert not refused.value.result.permanent
    assert child not in children(os.getpid())
    assert await ran(processes, "intruder.forger") != child


async def test_a_forged_answer_to_the_next_request_costs_the_next_task_nothing(processes: Processes) -> None:
    child = await ran(processes, "intruder.forger", '"after"')
    assert await ran(processes, "intruder.forger") in set(children(os.getpid())) - {child}
    assert child not in children(os.getpid())

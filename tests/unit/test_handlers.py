"""What the author of a handler writes, and how the worker finds it."""

import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from dtq.domain.errors import Rejected
from dtq.handlers import Context, Handler, Mode, RetryLater, handler
from dtq_worker import registry

MakeModule = Callable[..., str]


async def takes_payload(payload: Any) -> Any:
    return payload


def takes_both(payload: Any, context: Context) -> Any:
    return payload, context


@pytest.fixture
def module() -> Iterator[MakeModule]:
    """A factory of importable modules."""
    names: list[str] = []

    def make(name: str, **contents: object) -> str:
        made = ModuleType(name)
        made.__dict__.update(contents)
        sys.modules[name] = made
        names.append(name)
        return name

    yield make
    for name in names:
        del sys.modules[name]


def test_a_function_runs_where_its_kind_belongs() -> None:
    assert handler("a.v1")(takes_payload).mode is Mode.ASYNC
    assert handler("a.v1")(takes_both).mode is Mode.THREAD
    assert handler("a.v1", process=True)(takes_both).mode is Mode.PROCESS


def test_a_handler_takes_the_context_if_it_wants_it_and_stays_callable() -> None:
    made = handler("a.v1")(takes_both)
    assert (made.type, made.wants_context) == ("a.v1", True)
    assert made(1, 2) == (1, 2)
    assert not handler("a.v1")(takes_payload).wants_context


@pytest.mark.parametrize(
    "function",
    [lambda: None, lambda a, b, c: (a, b, c), lambda **names: names, lambda payload, *, needed: (payload, needed)],
)
def test_a_function_that_cannot_be_called_with_a_payload_is_refused(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=r"a\.v1"):
        handler("a.v1")(function)


def test_an_async_function_has_no_process() -> None:
    with pytest.raises(TypeError, match="process=True"):
        handler("a.v1", process=True)(takes_payload)


def test_a_retry_asked_for_is_never_in_the_past() -> None:
    assert RetryLater(delay_seconds=-5).delay_seconds == 0
    assert RetryLater(delay_seconds=float("nan")).delay_seconds == 0


def test_the_handlers_of_all_modules_are_found_by_type(module: MakeModule) -> None:
    one, two = handler("one.v1")(takes_payload), handler("two.v1")(takes_both)
    found = registry.load([module("handlers_one", a=one, b=3), module("handlers_two", c=two, again=one)])
    assert dict(found) == {"one.v1": one, "two.v1": two}


def test_the_demo_handles_the_origins_type() -> None:
    found = registry.load(["dtq_worker.demo"])
    assert isinstance(found["email.send.v1"], Handler)


def test_every_problem_with_handlers_is_told_at_once(module: MakeModule) -> None:
    first = module("handlers_first", a=handler("a.v1")(takes_payload))
    second = module("handlers_second", a=handler("a.v1")(takes_payload))
    with pytest.raises(Rejected) as caught:
        registry.load([first, second, "handlers_that_are_not_there"])
    assert [problem.path for problem in caught.value.problems] == [second, "handlers_that_are_not_there"]
    assert first in caught.value.problems[0].message


def test_a_worker_without_any_handler_does_not_start(module: MakeModule) -> None:
    with pytest.raises(Rejected) as caught:
        registry.load([module("handlers_none")])
    assert [problem.path for problem in caught.value.problems] == ["WORKER_HANDLERS"]

"""The API for authors of handlers: the decorator, the context, and the errors that a handler may raise.

There is no registry: `@handler` creates a value in the author's module, and the worker collects these values.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID


class Mode(StrEnum):
    """Where a handler runs."""

    ASYNC = "async"
    THREAD = "thread"
    PROCESS = "process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The task and the attempt that a handler runs.

    Attributes:
        attempt: from 1. With `task_id` it identifies this run; `idempotency_key` is the same for all runs.
        timeout_seconds: how long this attempt may take.
    """

    task_id: UUID
    type: str
    queue: str
    attempt: int
    max_attempts: int
    timeout_seconds: float

    @property
    def idempotency_key(self) -> str:
        """A key for calls to other services, the same for every attempt of this task."""
        return str(self.task_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handler:
    """A function that runs the tasks of one type.

    Attributes:
        wants_context: the function takes the `Context` as its second argument.
    """

    type: str
    run: Callable[..., Any]
    mode: Mode
    wants_context: bool

    def __call__(self, *args: Any) -> Any:
        """Call the function directly, for tests of the handler."""
        return self.run(*args)


class PermanentError(Exception):
    """Raised by a handler: another attempt is useless; fail the task now."""


class RetryLater(Exception):
    """Raised by a handler: this attempt failed; retry after `delay_seconds` instead of the back-off's delay.

    The attempt counts: after the last attempt the task fails.
    """

    def __init__(self, message: str = "", *, delay_seconds: float) -> None:
        super().__init__(message or f"the handler asked to be retried in {delay_seconds:g} s")
        self.delay_seconds = max(0.0, float(delay_seconds))


class Snooze(Exception):
    """Raised by a handler: nothing failed, but it is too early; run the task again after `delay_seconds`.

    The attempt does not count. A task may be snoozed 1,000 times within 30 days; then it fails.
    """

    def __init__(self, message: str = "", *, delay_seconds: float) -> None:
        super().__init__(message or f"the handler snoozed the task for {delay_seconds:g} s")
        self.delay_seconds = max(0.0, float(delay_seconds))


def handler(type_: str, *, process: bool = False) -> Callable[[Callable[..., Any]], Handler]:
    """Make a function the handler of a task type.

    An `async def` runs on the worker's event loop, a plain `def` in a thread, or with `process=True` in a child
    process that is killed on timeout or cancel.

    Args:
        type_: the task type, e.g. `email.send.v1`.
        process: run the function in a child process: for CPU-bound code and for code that may crash.

    Raises:
        TypeError: the function takes neither `(payload)` nor `(payload, context)`, or is async and wants a process.
    """

    def decorate(function: Callable[..., Any]) -> Handler:
        parameters = inspect.signature(function).parameters.values()
        positional = [
            parameter
            for parameter in parameters
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
        unmet = [
            parameter
            for parameter in parameters
            if parameter.kind is parameter.KEYWORD_ONLY and parameter.default is parameter.empty
        ]
        if len(positional) not in (1, 2) or unmet:
            raise TypeError(f"handler of {type_}: {function.__qualname__} must take (payload) or (payload, context)")
        is_async = inspect.iscoroutinefunction(function)
        if is_async and process:
            raise TypeError(f"handler of {type_}: an async function cannot run with process=True; make it a plain def")
        mode = Mode.PROCESS if process else Mode.ASYNC if is_async else Mode.THREAD
        return Handler(type=type_, run=function, mode=mode, wants_context=len(positional) == 2)  # noqa: PLR2004

    return decorate

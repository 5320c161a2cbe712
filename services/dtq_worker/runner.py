"""Runs one attempt: calls the handler in its place (loop, thread or process) within its timeout, and returns the end.

No exception of a handler escapes: `SystemExit`, generators and results that cannot be stored are outcomes too.
"""

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from dtq.domain.decisions import Attempt, describe, message_of, too_large
from dtq.domain.json_text import has_nul, keep_number_kinds
from dtq.domain.limits import RESULT_BYTES_MAX
from dtq.domain.memory import MORE_MEMORY
from dtq.domain.states import Outcome
from dtq.handlers import Handler, Mode, PermanentError, RetryLater, Snooze
from dtq.runtime.deadlines import Deadlines
from dtq_db.attempts import Claim
from dtq_worker import memory
from dtq_worker.child_protocol import RunResult
from dtq_worker.forks import EndsForks
from dtq_worker.processes import ChildError, Processes
from dtq_worker.tracebacks import traceback_of

CANCEL = "cancel"
FENCE = "fence"
DRAIN = "drain"
OUTAGE = "outage"
TIMEOUT = "timeout"


class Runner:
    """Runs attempts.

    Args:
        handlers: by type.
        processes: runs handlers of mode `process`.
    """

    def __init__(self, handlers: Mapping[str, Handler], processes: Processes) -> None:
        self._handlers = handlers
        self._processes = processes
        self.deadlines = Deadlines()
        """The deadlines of the event loop on which the attempts run."""

    async def run(self, claim: Claim) -> Attempt:
        """Run a claimed task once; return how it ended.

        Raises:
            asyncio.CancelledError: the worker gave up the task, and its end must not be recorded.
        """
        task = asyncio.current_task()
        assert task is not None
        deadline = self.deadlines.start(claim.timeout_seconds, functools.partial(task.cancel, TIMEOUT))
        try:
            value = await self._call(self._handlers[claim.type], claim)
        except asyncio.CancelledError as error:
            return _cancelled(error, claim)
        except BaseException as error:  # noqa: BLE001 - a handler's SystemExit must not end the worker
            if deadline.was_reached:
                return timed_out(claim)
            return _failed(error, _ending(claim))
        finally:
            self.deadlines.cancel(deadline)
        return _succeeded(value, _ending(claim))

    async def _call(self, handler: Handler, claim: Claim) -> Any:
        if handler.mode is Mode.PROCESS:
            return await self._in_process(claim)
        payload = msgspec.json.decode(claim.payload)
        args = (payload, claim.context) if handler.wants_context else (payload,)
        if handler.mode is Mode.ASYNC:
            with EndsForks():
                return await handler.run(*args)
        return await in_thread(functools.partial(handler.run, *args), name=f"dtq-{claim.type}")

    async def _in_process(self, claim: Claim) -> Any:
        kills_before = memory.oom_kills()
        try:
            return await self._processes.run(claim.type, claim.payload, claim.context)
        except ChildError as error:
            if error.was_killed and memory.oom_kills() > kills_before:
                text = f"{error}: the kernel killed it because it ran out of memory; {MORE_MEMORY}"
                raise ChildError(RunResult(error=text)) from error
            raise


def timed_out(claim: Claim) -> Attempt:
    """Return the end of an attempt that timed out."""
    return _ending(claim)(outcome=Outcome.TIMED_OUT, error=f"took longer than {claim.timeout_seconds:g} s")


def _ending(claim: Claim) -> Callable[..., Attempt]:
    return functools.partial(
        Attempt,
        attempt=claim.attempt,
        max_attempts=claim.max_attempts,
        crashes=claim.crashes,
        uncounted=claim.uncounted,
    )


async def in_thread(function: Callable[[], Any], *, name: str) -> Any:
    """Run a blocking function in a thread of its own and return its value.

    A thread cannot be stopped: when the wait is cancelled, the thread runs on as a daemon and its value is discarded.
    A thread pool would lose a thread each time.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(value: Any, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(value)
        else:
            # A future refuses StopIteration and must not pass on SystemExit.
            passes = isinstance(error, Exception) and not isinstance(error, StopIteration)
            answer.set_exception(error if passes else RuntimeError(describe(error)).with_traceback(error.__traceback__))

    def work() -> None:
        value, error = None, None
        try:
            with EndsForks():
                value = context.run(function)
        except BaseException as raised:  # noqa: BLE001 - the exception belongs to the task, not to the thread
            error = raised
        if not loop.is_closed():
            loop.call_soon_threadsafe(settle, value, error)

    threading.Thread(target=work, name=name, daemon=True).start()
    return await answer


def _cancelled(error: asyncio.CancelledError, claim: Claim) -> Attempt:
    ended = _ending(claim)
    match error.args:
        case (str(reason),) if reason == TIMEOUT:
            return timed_out(claim)
        case (str(reason),) if reason == CANCEL:
            return ended(outcome=Outcome.CANCELLED, error="cancelled while it ran")
        case (str(reason),) if reason == DRAIN:
            return ended(outcome=Outcome.DRAINED, error="the worker was stopped before the attempt ended")
        case (str(reason),) if reason == OUTAGE:
            error_text = (
                "the worker was stopped before the attempt ended: Postgres did not answer, so the lease was lost"
            )
            return ended(outcome=Outcome.DRAINED, error=error_text)
        case (str(reason),) if reason == FENCE:
            raise error
    return ended(outcome=Outcome.FAILED, error="the handler cancelled itself")


def _failed(error: BaseException, ended: Callable[..., Attempt]) -> Attempt:
    match error:
        case PermanentError():
            return ended(outcome=Outcome.FAILED, error=describe(error), permanent=True, traceback=traceback_of(error))
        case RetryLater():
            return ended(outcome=Outcome.FAILED, error=message_of(error), delay_seconds=error.delay_seconds)
        case Snooze():
            return ended(outcome=Outcome.SNOOZED, error=message_of(error), delay_seconds=error.delay_seconds)
        case ChildError(result=result):
            return ended(
                outcome=Outcome.SNOOZED if result.snoozed else Outcome.FAILED,
                error=result.error,
                permanent=result.permanent,
                delay_seconds=result.delay_seconds,
                traceback=result.traceback,
            )
    return ended(outcome=Outcome.FAILED, error=describe(error), traceback=traceback_of(error))


def _succeeded(value: Any, ended: Callable[..., Attempt]) -> Attempt:
    if inspect.isgenerator(value) or inspect.isasyncgen(value) or inspect.iscoroutine(value):
        if inspect.iscoroutine(value):
            value.close()  # otherwise Python warns that it was never awaited
        return ended(outcome=Outcome.FAILED, permanent=True, error=f"the handler returned a {type(value).__name__}")
    try:
        text = keep_number_kinds(msgspec.json.encode(value))
    except Exception as error:  # noqa: BLE001 - an object's own hooks may raise anything
        message = f"the result cannot be written as JSON: {describe(error)}"
        return ended(outcome=Outcome.FAILED, permanent=True, error=message)
    if len(text) > RESULT_BYTES_MAX:
        return ended(outcome=Outcome.FAILED, permanent=True, error=too_large(len(text)))
    if has_nul(text):
        message = "the result has a NUL character, which cannot be stored"
        return ended(outcome=Outcome.FAILED, permanent=True, error=message)
    return ended(outcome=Outcome.SUCCEEDED, result=text.decode())

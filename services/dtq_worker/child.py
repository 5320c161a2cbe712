"""A child process of a worker: runs the handler of one task type, one task at a time.

Each request is a line of JSON on stdin, each answer a line on stdout; the output of handlers goes to stderr. The child
exits when stdin is closed or its worker dies. A process that a handler forks here has neither pipe, and exits when the
handler returns.
"""

import contextvars
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from dtq.domain.decisions import cut, cut_traceback, describe, message_of, too_large
from dtq.domain.limits import RESULT_BYTES_MAX
from dtq.handlers import Handler, PermanentError, RetryLater, Snooze
from dtq_worker import orphans, prctl
from dtq_worker.child_protocol import RunRequest, RunResult
from dtq_worker.forks import EndsForks, give_up
from dtq_worker.leftovers import ProcessState
from dtq_worker.registry import load
from dtq_worker.tracebacks import traceback_of

OOM_SCORE: Final = 500
"""proc(5), oom_score_adj: adds half of the memory limit to this process's memory use when the kernel picks a victim."""


def serve(orders: BinaryIO, answers: BinaryIO, handler: Handler) -> None:
    """Answer every request until the requests end."""
    decoder = msgspec.json.Decoder(RunRequest)
    for line in orders:
        before = ProcessState.now()
        order = decoder.decode(line)
        answer = run(order, handler)
        with suppress(Exception):  # a handler may have closed it
            sys.stdout.flush()
        answer.left, answer.nonce = before.left(ProcessState.now()), order.nonce
        answers.write(encoded(answer) + b"\n")
        answers.flush()


def encoded(answer: RunResult) -> bytes:
    """Return an answer as JSON; a value that cannot be kept becomes an error."""
    try:
        whole = msgspec.json.encode(answer)
        value_bytes = len(msgspec.json.encode(answer.value)) if len(whole) > RESULT_BYTES_MAX else 0
    except Exception as error:  # noqa: BLE001 - an object's own hooks may raise anything
        return _refusal(f"the result cannot be written as JSON: {describe(error)}", answer)
    if value_bytes > RESULT_BYTES_MAX:
        return _refusal(too_large(value_bytes), answer)
    return whole


def _refusal(error: str, answer: RunResult) -> bytes:
    return msgspec.json.encode(RunResult(error=cut(error), permanent=True, left=answer.left, nonce=answer.nonce))


def run(order: RunRequest, handler: Handler) -> RunResult:
    """Run the handler once, in a context of its own, and return how it ended."""
    payload = msgspec.json.decode(order.payload)
    try:
        args = (payload, order.context) if handler.wants_context else (payload,)
        with EndsForks():
            return RunResult(value=contextvars.copy_context().run(handler.run, *args))
    except PermanentError as error:
        return RunResult(error=cut(describe(error)), permanent=True, traceback=cut_traceback(traceback_of(error)))
    except (RetryLater, Snooze) as error:
        snoozed = isinstance(error, Snooze)
        return RunResult(error=cut(message_of(error)), delay_seconds=error.delay_seconds, snoozed=snoozed)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a handler fails its task and must not end the child
        return RunResult(error=cut(describe(error)), traceback=cut_traceback(traceback_of(error)))


def main() -> None:
    """Serve on the inherited descriptors; handlers get an empty stdin, and their output goes to stderr.

    The arguments are the task type to serve and the handler modules.
    """
    type_, *modules = sys.argv[1:]
    prctl.die_with_parent()  # a handler that never ends must not outlive a worker that was killed
    prctl.adopt_orphans()  # otherwise a process that left its session and its parent would not be seen as left behind
    _offer_to_oom_killer()
    prctl.forbid_inspection()  # children of other types run as the same user
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    os.register_at_fork(after_in_child=partial(_give_up_pipes, orders.fileno(), answers.fileno()))
    orders.peek(1)  # the worker sends a request only when it knows this child: only then it tells it from an orphan
    orphans.mark()
    serve(orders, answers, load(modules)[type_])


def _give_up_pipes(*pipes: int) -> None:
    for pipe in pipes:
        give_up(pipe)


def _offer_to_oom_killer() -> None:
    """Make the kernel kill this process rather than the worker when memory runs out: that costs only one task."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))


if __name__ == "__main__":
    main()

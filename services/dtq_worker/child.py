"""A child process: runs handlers one at a time, told by a line of JSON on stdin, answering by one on stdout.

Owns nothing but its own life: it ends when stdin or its worker does. What handlers print goes to stderr.
"""

import ctypes
import os
import signal
import sys
from typing import BinaryIO, Final

import msgspec

from dtq.domain.decisions import cut, cut_traceback, describe, message_of
from dtq.handlers import Handler, PermanentError, RetryLater, Snooze
from dtq_worker.processes import Answer, Order
from dtq_worker.registry import load
from dtq_worker.tracebacks import traceback_of

PR_SET_PDEATHSIG: Final = 1
"""prctl(2): the signal to get when the parent dies."""


def serve(orders: BinaryIO, answers: BinaryIO, handlers: dict[str, Handler]) -> None:
    """Answer every order until the orders end."""
    decoder = msgspec.json.Decoder(Order)
    for line in orders:
        answer = run(decoder.decode(line), handlers)
        try:
            encoded = msgspec.json.encode(answer)
        except Exception as error:  # noqa: BLE001 - an object's own hooks may raise anything
            encoded = msgspec.json.encode(
                Answer(error=f"the result cannot be written as JSON: {error}", permanent=True)
            )
        answers.write(encoded + b"\n")
        answers.flush()


def run(order: Order, handlers: dict[str, Handler]) -> Answer:
    """Run one handler and say how it ended."""
    handler = handlers[order.type]
    payload = msgspec.json.decode(order.payload)
    try:
        args = (payload, order.context) if handler.wants_context else (payload,)
        return Answer(value=handler.run(*args))
    except PermanentError as error:
        return Answer(error=cut(describe(error)), permanent=True, traceback=cut_traceback(traceback_of(error)))
    except (RetryLater, Snooze) as error:
        snoozed = isinstance(error, Snooze)
        return Answer(error=cut(message_of(error)), delay_seconds=error.delay_seconds, snoozed=snoozed)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a handler is its failure, not our end
        return Answer(error=cut(describe(error)), traceback=cut_traceback(traceback_of(error)))


def main() -> None:
    """Serve on the descriptors we were given; the handlers see an empty stdin, and their prints go to stderr."""
    if sys.platform == "linux":
        # A handler that never ends must not outlive a worker that was killed.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    orders, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    serve(orders, answers, dict(load(sys.argv[1:])))


if __name__ == "__main__":
    main()

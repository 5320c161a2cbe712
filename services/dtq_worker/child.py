"""A child process: runs handlers one at a time, told by a line of JSON on stdin, answering by one on stdout.

Owns nothing but its own life: it ends when stdin does. What handlers print goes to stderr.
"""

import os
import sys
from typing import BinaryIO

import msgspec

from dtq.handlers import Handler, PermanentError, RetryLater
from dtq_worker.processes import Answer, Order
from dtq_worker.registry import load


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
        return Answer(error=f"{type(error).__name__}: {error}", permanent=True)
    except RetryLater as error:
        return Answer(error=str(error), delay_seconds=error.delay_seconds)
    except BaseException as error:  # noqa: BLE001 - SystemExit of a handler is its failure, not our end
        return Answer(error=f"{type(error).__name__}: {error}")


def main() -> None:
    """Serve on the descriptors we were given, and send stray prints to stderr."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    serve(sys.stdin.buffer, answers, dict(load(sys.argv[1:])))


if __name__ == "__main__":
    main()

"""A process that checks payloads whose check may take long, so that the API's event loop never waits for one.

Each request is a length and a message on stdin, each answer likewise on stdout. A check that needs more CPU or memory
than it may use ends this process: only the kernel can stop the validator.
"""

import os
import resource
import signal
import sys
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Final, Literal

import msgspec

from dtq.domain.errors import Problem, Rejected, Unavailable
from dtq.domain.payloads import PayloadRules

CPU_SECONDS: Final = 0.25
"""Most CPU time of one check, in seconds: scanning and decoding the largest payload takes up to 0.1 s."""
MEMORY_BYTES: Final = 128 * 1_048_576
"""How much memory a check may add to that of this process, in bytes: the largest payload needs some 40 MiB decoded."""
NICENESS: Final = 10
"""How far this process stands back from the API's event loop where CPU time is short: about a tenth of its share."""
SCHEMAS_MAX: Final = 64
"""Compiled schemas kept."""
LENGTH_BYTES: Final = 4
"""Size of the length before each message, in bytes, most significant byte first."""


class CheckRequest(msgspec.Struct, array_like=True):
    """A payload to check; `schema` is JSON, empty if the type has none."""

    type: str
    schema: bytes
    payload: bytes


class CheckAnswer(msgspec.Struct, array_like=True):
    """The outcome of a check: the text to store (None if it is the payload unchanged), or the error to raise."""

    stored: bytes | None = None
    error: Literal["", "Rejected", "Unavailable"] = ""
    code: str = ""
    message: str = ""
    problems: list[tuple[str, str]] = []

    def outcome(self, payload: bytes) -> bytes:
        """Return the text to store.

        Raises:
            Rejected, Unavailable: as `PayloadRules.checked`.
        """
        if self.error == "Rejected":
            problems = tuple(Problem(path=path, message=message) for path, message in self.problems)
            raise Rejected(self.code, self.message, problems)
        if self.error == "Unavailable":
            raise Unavailable(self.message)
        return payload if self.stored is None else self.stored


def answer_to(request: CheckRequest) -> CheckAnswer:
    """Check one payload."""
    try:
        stored = _rules(request.type, request.schema).checked(request.payload)
    except Rejected as error:
        problems = [(problem.path, problem.message) for problem in error.problems]
        return CheckAnswer(error="Rejected", code=error.code, message=str(error), problems=problems)
    except Unavailable as error:
        return CheckAnswer(error="Unavailable", message=str(error))
    return CheckAnswer(None if stored == request.payload else stored)


@lru_cache(maxsize=SCHEMAS_MAX)
def _rules(type_: str, schema: bytes) -> PayloadRules:
    return PayloadRules.of(type_, msgspec.json.decode(schema) if schema else None)


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer every request until stdin is closed."""
    decoder = msgspec.msgpack.Decoder(CheckRequest)
    while length := requests.read(LENGTH_BYTES):
        message = requests.read(int.from_bytes(length))
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        answer = msgspec.msgpack.encode(answer_to(decoder.decode(message)))
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(len(answer).to_bytes(LENGTH_BYTES) + answer)
        answers.flush()


def main() -> None:
    """Run the process."""
    os.nice(NICENESS)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the API, which closes stdin when it is done
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_BYTES,) * 2)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()

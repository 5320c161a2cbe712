"""Checks payloads: a light one at once, any other in a child process with bounded CPU time and memory.

The types take turns, and each may have a bounded number of checks waiting, so that one type cannot delay the others
for long.
"""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from dtq.domain.catalog import TypePolicy
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.payloads import PayloadRules, is_light_schema
from dtq.runtime.payload_child import CPU_SECONDS, LENGTH_BYTES, MEMORY_BYTES, CheckAnswer, CheckRequest

CHILDREN: Final = 2
"""Processes that check payloads: one works while the other is replaced."""
WAITING_PER_TYPE: Final = 32
"""Most checks of one type that wait; further requests of the type are told to come back."""
WAITING_MAX: Final = 64
"""Most checks that wait in all: each holds a payload of up to 1 MiB."""
CHILD_SECONDS: Final = 10.0
"""Longest time for one check, in seconds: far more than its CPU time, for a busy machine and a new process."""

_log = structlog.get_logger(__name__)


class _Check:
    """A check that waits for a child, or runs in one."""

    def __init__(self, request: CheckRequest) -> None:
        self.request = request
        self.answer: asyncio.Future[CheckAnswer] = asyncio.get_running_loop().create_future()


class PayloadChecks:
    """Checks the payloads of all types."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[object, bytes, PayloadRules | None]] = {}
        self._waiting: dict[str, deque[_Check]] = {}
        """Checks by type, in the order of the types' turns."""
        self._free = [_Child() for _ in range(CHILDREN)]
        self._running: set[asyncio.Task[None]] = set()

    async def checked(self, policy: TypePolicy, text: bytes) -> bytes:
        """Return the text to store for a payload of a type.

        Raises:
            Rejected: the payload is not allowed, costs too much to check, or too many of its type wait.
            Unavailable: this release cannot read the type's schema, or no process can check payloads now.
        """
        schema, rules = self._rules(policy)
        if rules is not None and rules.is_light(text):
            return rules.checked(text)
        check = _Check(CheckRequest(policy.type, schema, text))
        self._queue(check)
        try:
            return (await check.answer).outcome(text)
        finally:
            check.answer.cancel()

    def keep(self, types: Collection[str]) -> None:
        """Forget the rules of all other types."""
        for type_ in self._known.keys() - set(types):
            del self._known[type_]

    async def close(self) -> None:
        """End the children."""
        while self._running:
            await asyncio.wait(self._running)
        for child in self._free:
            await child.end()

    def _rules(self, policy: TypePolicy) -> tuple[bytes, PayloadRules | None]:
        """Return a type's schema as JSON, and its rules if they are light enough to be kept here."""
        known = self._known.get(policy.type)
        if known is None or known[0] is not policy.payload_schema:
            schema = b"" if policy.payload_schema is None else msgspec.json.encode(policy.payload_schema)
            rules = PayloadRules.of(policy.type, policy.payload_schema) if is_light_schema(schema) else None
            known = self._known[policy.type] = (policy.payload_schema, schema, rules)
        return known[1], known[2]

    def _queue(self, check: _Check) -> None:
        queue = self._waiting.setdefault(check.request.type, deque())
        if len(queue) >= WAITING_PER_TYPE or sum(map(len, self._waiting.values())) >= WAITING_MAX:
            raise Rejected(
                "TooManyRequests",
                f"too many payloads wait for their check: of type {check.request.type!r} {len(queue)};"
                " send fewer large payloads at a time",
                retry_after_seconds=1,
            )
        queue.append(check)
        self._start()

    def _start(self) -> None:
        while self._free and (check := self._next()) is not None:
            child = self._free.pop()
            running = asyncio.get_running_loop().create_task(self._run(child, check))
            self._running.add(running)
            running.add_done_callback(self._running.discard)

    def _next(self) -> _Check | None:
        """Take the next check of the type whose turn it is; the type then goes to the end of the line."""
        for type_ in list(self._waiting):
            queue = self._waiting.pop(type_)
            while queue:
                check = queue.popleft()
                if not check.answer.done():  # otherwise its client went away
                    if queue:
                        self._waiting[type_] = queue
                    return check
        return None

    async def _run(self, child: "_Child", check: _Check) -> None:
        try:
            answer = await child.ask(check.request)
            if not check.answer.done():
                check.answer.set_result(answer)
        except Exception as error:  # noqa: BLE001 - a bug must reach its request too, which answers 500 and logs it
            if not check.answer.done():
                check.answer.set_exception(error)
        finally:
            self._free.append(child)
            self._start()


class _Child:
    """A child process, started when it is first needed and again after its end."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None

    async def ask(self, request: CheckRequest) -> CheckAnswer:
        """Have a payload checked.

        Raises:
            Rejected: the check needs more CPU time or memory than it may use.
            Unavailable: there can be no process now.
        """
        try:
            async with asyncio.timeout(CHILD_SECONDS):
                return await self._talk(request)
        except TimeoutError as error:
            await self.end()
            raise Unavailable(f"the payload could not be checked within {CHILD_SECONDS:g} s") from error
        except OSError as error:
            await self.end()
            raise Unavailable(f"no process can check the payload: {error}") from error
        except asyncio.IncompleteReadError as error:
            raise await self._ended(request.type) from error
        except BaseException:
            await self.end()
            raise

    async def end(self) -> None:
        """Kill the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _talk(self, request: CheckRequest) -> CheckAnswer:
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "dtq.runtime.payload_child",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={},
            )
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        message = msgspec.msgpack.encode(request)
        with suppress(ConnectionError):  # the end of the answers tells more
            requests.write(len(message).to_bytes(LENGTH_BYTES) + message)
            await requests.drain()
        length = int.from_bytes(await answers.readexactly(LENGTH_BYTES))
        return msgspec.msgpack.decode(await answers.readexactly(length), type=CheckAnswer)

    async def _ended(self, type_: str) -> Rejected:
        assert self._process is not None
        code = await self._process.wait()
        self._process = None
        what = f"{CPU_SECONDS:g} s of CPU time" if code == -signal.SIGPROF else f"{MEMORY_BYTES // 1_048_576} MiB"
        _log.warning("payload check ended", type=type_, exit_code=code)
        return Rejected(
            "InvalidPayload",
            f"checking the payload against the schema of {type_} takes more than {what}: send a smaller payload,"
            " or simplify the type's payloadSchema",
        )

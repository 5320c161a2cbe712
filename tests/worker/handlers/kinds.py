"""Kinds of handler that people write: what each does to its process, and what its task must say afterwards.

Imported by the workers and by the tests. `KINDS` says where a kind runs and how it ends.
"""

import asyncio
import ctypes
import decimal
import gc
import logging
import logging.config
import mmap
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import uvloop

from dtq import Context, handler

NAP_SECONDS: Final = 40
"""How long what a handler leaves behind goes on, in seconds: longer than a test."""
TENANT: ContextVar[str] = ContextVar("tenant", default="none")
LEFT_OPEN: Final[list[Any]] = []
"""What handlers never close: kept, so that no destructor closes it for them."""


def nap() -> None:
    time.sleep(NAP_SECONDS)


def square(number: int) -> int:
    return number * number


# Forks, spawns and pools.


def helper_is_terminated(method: str) -> Callable[[], Any]:
    """Start a helper process and stop it, as the documentation of multiprocessing does."""

    def kind() -> Any:
        helper: Any = multiprocessing.get_context(method).Process(target=nap)  # type: ignore[attr-defined]
        helper.start()
        helper.terminate()
        helper.join(15)
        return helper.exitcode

    return kind


def helpers_are_signalled_at_once() -> bool:
    """Signal forked children as early as can be: between the fork and their first line of Python."""
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT) * 10:
        pid = os.fork()
        if pid == 0:
            nap()
        os.kill(pid, number)
        codes.append(waited(pid))
    return set(codes) <= {-signal.SIGTERM, -signal.SIGINT, 1} and -signal.SIGTERM in codes


def pool_maps(method: str) -> Callable[[], Any]:
    def kind() -> Any:
        with multiprocessing.get_context(method).Pool(2) as pool:
            return pool.map(square, range(4))

    return kind


def pool_is_left_open() -> Any:
    pool = ProcessPoolExecutor(2)
    LEFT_OPEN.append(pool)
    return list(pool.map(square, range(4)))


def thread_pool_is_left_open() -> Any:
    pool = ThreadPoolExecutor(2)
    LEFT_OPEN.append(pool)
    LEFT_OPEN.append(pool.submit(nap))
    return list(pool.map(square, range(4)))


def forked(child: Callable[[], Any]) -> Callable[[], Any]:
    """Fork; the child does what it likes and falls out of the handler, the parent returns the child's exit code."""

    def kind() -> Any:
        pid = os.fork()
        if pid == 0:
            return child()
        return waited(pid)

    return kind


def waited(pid: int) -> int:
    """A child's exit code, or the signal that ended it, negative."""
    until = time.monotonic() + 15
    while time.monotonic() < until:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return -999


def raised(error: BaseException) -> Callable[[], Any]:
    def child() -> Any:
        raise error

    return child


def closes_everything() -> Any:
    """What a daemon does first."""
    os.closerange(3, 4096)
    os._exit(0)


def collects_garbage() -> Any:
    """Run the destructors of everything that the parent holds."""
    for thing in gc.get_objects():
        with suppress(Exception):
            if hasattr(thing, "abort") and "Transport" in type(thing).__name__:
                thing.abort()
    gc.collect()
    os._exit(0)


async def forked_child_awaits() -> int:
    """The child goes back to an event loop that is the worker's."""
    pid = os.fork()
    if pid == 0:
        await asyncio.sleep(0.05)
        await asyncio.sleep(3600)
    return await asyncio.to_thread(waited, pid)


def fork_is_left_running() -> str:
    """Leave a daemon behind: a child in a session of its own, without a parent that waits for it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            nap()
        os._exit(0)
    return "left"


def helper_is_left_running() -> int:
    """Leave a daemon behind and return its pid."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            nap()
        os.write(write, str(pid).encode())
        os._exit(0)
    return int(os.read(read, 20))


def helper_keeps_its_own_signals() -> int:
    """Fork a helper that ignores SIGTERM and forks again: the last one ignores it too, as everywhere."""
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        inner = os.fork()
        if inner == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(5)
        os._exit(waited(inner))
    return waited(pid)


# Programs.


def subprocess_tree() -> int:
    shell = subprocess.Popen(["sh", "-c", "sleep 40 & sleep 40 & wait"], start_new_session=True)
    os.killpg(shell.pid, signal.SIGTERM)
    return shell.wait(15)


def subprocess_with_preexec() -> str:
    done = subprocess.run(
        ["sh", "-c", "grep SigBlk /proc/self/status; echo ran"],
        preexec_fn=os.setsid, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.split()[1].strip("0") + done.stdout.split()[2]


def subprocess_times_out() -> Any:
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "40"], timeout=0.2, check=False)
    return "timed out"


async def subprocess_of_asyncio() -> int | None:
    shell = await asyncio.create_subprocess_exec("sh", "-c", "sleep 40", start_new_session=True)
    shell.terminate()
    return await shell.wait()


# Event loops.


async def soon() -> str:
    await asyncio.sleep(0.01)
    return "ran"


def own_loop() -> str:
    return asyncio.run(soon())


def own_uvloop() -> str:
    return uvloop.run(soon())


def own_loop_is_left_open() -> str:
    loop = asyncio.new_event_loop()
    LEFT_OPEN.append(loop)
    asyncio.set_event_loop(loop)
    return loop.run_until_complete(soon())


def own_loop_has_signal_handlers() -> str:
    async def main() -> str:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, print)
        return await soon()

    return asyncio.run(main())


async def loop_in_the_loop() -> str:
    coroutine = soon()
    try:
        return asyncio.run(coroutine)
    finally:
        coroutine.close()


async def loop_is_stopped() -> str:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0.05)
    return "went on"


def subtask_raises(error: BaseException) -> Callable[[], Awaitable[Any]]:
    async def fails() -> None:
        raise error

    async def kind() -> None:
        await asyncio.gather(fails())

    return kind


async def callback_exits() -> str:
    asyncio.get_running_loop().call_soon(sys.exit, 3)
    await asyncio.sleep(0.05)
    return "went on"


async def subtasks_are_left_behind() -> str:
    async def forever() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(NAP_SECONDS)

    LEFT_OPEN.append(asyncio.get_running_loop().create_task(forever()))
    return "left"


async def executor_is_held() -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await asyncio.to_thread(nap)
    return "gave up"


async def loop_is_blocked() -> str:
    time.sleep(6)  # noqa: ASYNC251
    return "blocked"


async def loop_is_blocked_again_and_again() -> None:
    for _ in range(30):
        time.sleep(0.7)  # noqa: ASYNC251
        await asyncio.sleep(0)


# Signals.


def signal_handler_is_set() -> str:
    signal.signal(signal.SIGTERM, lambda *_: None)
    return "set"


def alarm_is_left_pending() -> str:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(1)
    return "set"


async def signal_handlers_are_ignored() -> str:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return "ignored"


def interrupts_itself() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


# What belongs to the whole process.


def logging_is_set_up() -> str:
    logging.basicConfig(level="DEBUG", force=True, format="%(message)s")
    logging.disable(logging.CRITICAL)
    logging.disable(logging.NOTSET)
    return "set up"


def logging_is_configured_anew() -> str:
    logging.config.dictConfig(
        {"version": 1, "handlers": {"null": {"class": "logging.NullHandler"}}, "root": {"handlers": ["null"]}}
    )
    return "set up"


def stderr_is_closed() -> str:
    before, sys.stderr = sys.stderr, open(os.dup(2), "w")  # noqa: PTH123, SIM115
    before.close() if before is not sys.__stderr__ else None
    return "closed"


def environment_is_cleared() -> str:
    os.environ.clear()
    return "cleared"


def folder_is_left() -> str:
    folder = Path(f"/tmp/dtq-kind-{os.getpid()}-{time.monotonic_ns()}")
    folder.mkdir()
    os.chdir(folder)
    folder.rmdir()
    return "left"


def files_are_limited() -> str:
    resource.setrlimit(resource.RLIMIT_NOFILE, (4, 4))
    return "limited"


def context_variable() -> str:
    before = TENANT.get()
    TENANT.set("acme")
    return before


async def context_variable_of_a_task() -> str:
    return context_variable()


def decimal_context() -> int:
    before = decimal.getcontext().prec
    decimal.getcontext().prec = 5
    return before


def thread_exits_later() -> str:
    """Leave a thread that ends the process when the next task runs in it."""
    threading.Timer(1, os._exit, args=(9,)).start()
    return "left"


def two_seconds() -> list[int]:
    """Use the process for two seconds: memory, files, and the folder."""
    time.sleep(2)
    with Path(__file__).open() as file, mmap.mmap(-1, 2**30) as memory:
        return [len(memory), file.fileno() > 0, Path.cwd().is_dir()]


def daemon_thread_is_left() -> str:
    threading.Thread(target=nap, daemon=True).start()
    return "left"


def thread_is_left() -> str:
    threading.Thread(target=nap, daemon=False).start()
    return "left"


def thread_exits() -> str:
    thread = threading.Thread(target=sys.exit, args=(3,))
    thread.start()
    thread.join()
    return "went on"


# Memory and results.


def memory_bomb() -> int:
    resource.setrlimit(resource.RLIMIT_AS, (2**29, 2**29))
    return len(bytearray(2**33))


def real_memory_bomb() -> int:
    """Use memory until the kernel ends a process."""
    return len([b"%d" % number * 2**20 for number in range(1000, 2000)])


def recursion() -> Any:
    return recursion()


def stack_overflow() -> Any:
    """Overflow the stack of C, where no RecursionError comes."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(10**9)
    return re.compile("(" * 10**6)


def segfault() -> Any:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return ctypes.string_at(0)


def huge_result() -> str:
    return "x" * (20 * 1_048_576)


def deep_result() -> Any:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found]
    return found


def odd_result() -> Any:
    return {1: object()}


def flood_of_prints() -> str:
    for _ in range(2000):
        print("x" * 1000, flush=True)  # noqa: T201
    return "printed"


def reads_stdin() -> str:
    return input()


def generator() -> Iterator[int]:
    yield 1


def async_generator() -> AsyncIterator[int]:
    async def numbers() -> AsyncIterator[int]:
        yield 1

    return numbers()


def returns_a_coroutine() -> Any:
    return soon()


# Helpers that outlive a crash.


def crash_beside_a_helper() -> None:
    """Fork a helper that lives on, then crash."""
    helper = multiprocessing.get_context("fork").Process(target=nap)
    helper.start()
    segfault()


def crash_beside_a_daemon() -> None:
    """Fork a helper that lives on in a session of its own and holds every descriptor, then crash."""
    subprocess.Popen(["setsid", "sleep", str(NAP_SECONDS)], close_fds=False, pass_fds=every_pipe())
    segfault()


def stuck_beside_a_daemon() -> None:
    subprocess.Popen(["setsid", "sleep", str(NAP_SECONDS)], close_fds=False, pass_fds=every_pipe())
    nap()


def every_pipe() -> tuple[int, ...]:
    """The descriptors of this process that are pipes or sockets, as a helper that was forked in C would keep them."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if str(link.readlink()).startswith(("pipe:", "socket:")):
                found.append(int(link.name))
    return tuple(found)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of handler.

    Attributes:
        modes: where people run it.
        gives: the result; or else
        says: a pattern of `last_error`.
        seconds: when the end must be recorded at the latest, in seconds.
    """

    run: Callable[[], Any]
    modes: str
    gives: Any = None
    says: str | None = None
    type: str = "kind"
    seconds: float = 25.0


ANYWHERE: Final = "async thread process"

KINDS: Final[dict[str, Kind]] = {
    "helper forked and terminated": Kind(run=helper_is_terminated("fork"), modes=ANYWHERE, gives=-15),
    "helper spawned and terminated": Kind(run=helper_is_terminated("spawn"), modes="thread process", gives=-15),
    "helper of a fork server": Kind(run=helper_is_terminated("forkserver"), modes="thread process", gives=-15),
    "helpers signalled at once": Kind(run=helpers_are_signalled_at_once, modes="async thread", gives=True),
    "pool of forks": Kind(run=pool_maps("fork"), modes=ANYWHERE, gives=[0, 1, 4, 9]),
    "pool of spawns": Kind(run=pool_maps("spawn"), modes="thread process", gives=[0, 1, 4, 9]),
    "pool left open": Kind(run=pool_is_left_open, modes=ANYWHERE, gives=[0, 1, 4, 9]),
    "thread pool left open": Kind(run=thread_pool_is_left_open, modes="thread process", gives=[0, 1, 4, 9]),
    "fork returns": Kind(run=forked(lambda: "child"), modes=ANYWHERE, gives=0),
    "fork exits": Kind(run=forked(lambda: sys.exit(3)), modes=ANYWHERE, gives=3),
    "fork exits with words": Kind(run=forked(lambda: sys.exit("words")), modes=ANYWHERE, gives=1),
    "fork exits hard": Kind(run=forked(lambda: os._exit(7)), modes=ANYWHERE, gives=7),
    "fork raises": Kind(run=forked(raised(ValueError("child"))), modes=ANYWHERE, gives=1),
    "fork is interrupted": Kind(run=forked(raised(KeyboardInterrupt())), modes=ANYWHERE, gives=1),
    "fork forks": Kind(run=helper_keeps_its_own_signals, modes=ANYWHERE, gives=5),
    "fork runs a loop": Kind(run=forked(lambda: sys.exit(own_loop() != "ran")), modes=ANYWHERE, gives=0),
    "fork awaits": Kind(run=forked_child_awaits, modes="async", gives=1),
    "fork closes everything": Kind(run=forked(closes_everything), modes=ANYWHERE, gives=0),
    "fork collects garbage": Kind(run=forked(collects_garbage), modes=ANYWHERE, gives=0),
    "fork left running": Kind(run=fork_is_left_running, modes=ANYWHERE, gives="left"),
    "subprocess tree": Kind(run=subprocess_tree, modes=ANYWHERE, gives=-15),
    "subprocess with preexec": Kind(run=subprocess_with_preexec, modes=ANYWHERE, gives="ran"),
    "subprocess timed out": Kind(run=subprocess_times_out, modes="thread process", gives="timed out"),
    "subprocess of asyncio": Kind(run=subprocess_of_asyncio, modes="async", gives=-15),
    "own loop": Kind(run=own_loop, modes="thread process", gives="ran"),
    "own uvloop": Kind(run=own_uvloop, modes="thread process", gives="ran"),
    "own loop left open": Kind(run=own_loop_is_left_open, modes="thread process", gives="ran"),
    "own loop with signals": Kind(run=own_loop_has_signal_handlers, modes="thread", says="main thread"),
    "own loop with signals, alone": Kind(run=own_loop_has_signal_handlers, modes="process", gives="ran"),
    "loop in the loop": Kind(run=loop_in_the_loop, modes="async", says="running event loop"),
    "loop stopped": Kind(run=loop_is_stopped, modes="async", gives="went on"),
    "loop blocked": Kind(run=loop_is_blocked, modes="async", gives="blocked"),
    "loop blocked again and again": Kind(
        run=loop_is_blocked_again_and_again, modes="async", type="short", says="took longer than 2 s", seconds=18
    ),
    "subtask exits": Kind(run=subtask_raises(SystemExit(3)), modes="async", says="SystemExit"),
    "subtask is interrupted": Kind(run=subtask_raises(KeyboardInterrupt()), modes="async", says="KeyboardInterrupt"),
    "subtask raises": Kind(run=subtask_raises(ValueError("sub")), modes="async", says="ValueError: sub"),
    "callback exits": Kind(run=callback_exits, modes="async", gives="went on"),
    "subtasks left behind": Kind(run=subtasks_are_left_behind, modes="async", gives="left"),
    "executor held": Kind(run=executor_is_held, modes="async", gives="gave up"),
    "signal handler": Kind(run=signal_handler_is_set, modes="thread", says="main thread"),
    "signal handler, alone": Kind(run=signal_handler_is_set, modes="process", gives="set"),
    "signals ignored": Kind(run=signal_handlers_are_ignored, modes="async", gives="ignored"),
    "alarm left pending": Kind(run=alarm_is_left_pending, modes="process", gives="set"),
    "interrupts itself": Kind(run=interrupts_itself, modes="process", says="KeyboardInterrupt"),
    "logging set up": Kind(run=logging_is_set_up, modes=ANYWHERE, gives="set up"),
    "logging configured anew": Kind(run=logging_is_configured_anew, modes=ANYWHERE, gives="set up"),
    "stderr closed": Kind(run=stderr_is_closed, modes="thread process", gives="closed"),
    "environment cleared": Kind(run=environment_is_cleared, modes="thread process", gives="cleared"),
    "folder left": Kind(run=folder_is_left, modes="thread process", gives="left"),
    "files limited": Kind(run=files_are_limited, modes="process", gives="limited"),
    "context variable": Kind(run=context_variable, modes="thread process", gives="none"),
    "context variable of a task": Kind(run=context_variable_of_a_task, modes="async", gives="none"),
    "decimal context": Kind(run=decimal_context, modes=ANYWHERE, gives=28),
    "daemon thread left": Kind(run=daemon_thread_is_left, modes=ANYWHERE, gives="left"),
    "thread left": Kind(run=thread_is_left, modes=ANYWHERE, gives="left"),
    "thread exits": Kind(run=thread_exits, modes=ANYWHERE, gives="went on"),
    "late exit": Kind(run=thread_exits_later, modes="", gives="left"),
    "two seconds": Kind(run=two_seconds, modes="", gives=[2**30, True, True]),
    "own pid": Kind(run=os.getpid, modes=""),
    "helper's pid": Kind(run=helper_is_left_running, modes=""),
    "real memory bomb": Kind(run=real_memory_bomb, modes=""),
    "memory bomb": Kind(run=memory_bomb, modes="process", says="MemoryError"),
    "recursion": Kind(run=recursion, modes=ANYWHERE, says="RecursionError"),
    "segfault": Kind(run=segfault, modes="process", says="signal 11"),
    "huge result": Kind(run=huge_result, modes=ANYWHERE, says="the result has 20971522 bytes; at most 262144 are kept"),
    "deep result": Kind(run=deep_result, modes=ANYWHERE, says="cannot be written as JSON|recursion"),
    "odd result": Kind(run=odd_result, modes=ANYWHERE, says="cannot be written as JSON"),
    "flood of prints": Kind(run=flood_of_prints, modes=ANYWHERE, gives="printed"),
    "reads stdin": Kind(run=reads_stdin, modes="process", says="EOFError"),
    "generator": Kind(run=generator, modes=ANYWHERE, says="generator"),
    "async generator": Kind(run=async_generator, modes=ANYWHERE, says="async_generator"),
    "coroutine": Kind(run=returns_a_coroutine, modes="thread process", says="coroutine"),
    "crash beside a helper": Kind(run=crash_beside_a_helper, modes="process", says="signal 11", seconds=15),
    "crash beside a daemon": Kind(run=crash_beside_a_daemon, modes="process", says="signal 11", seconds=15),
    "stuck beside a daemon": Kind(
        run=stuck_beside_a_daemon, modes="process", type="short", says="took longer than 2 s", seconds=18
    ),
}


@handler("kind.async")
async def run_async(payload: Any) -> Any:
    found = KINDS[payload["kind"]].run()
    return await found if asyncio.iscoroutine(found) else found


@handler("kind.thread")
def run_thread(payload: Any) -> Any:
    return KINDS[payload["kind"]].run()


@handler("kind.process", process=True)
def run_process(payload: Any) -> Any:
    return KINDS[payload["kind"]].run()


@handler("short.async")
async def run_async_shortly(payload: Any) -> Any:
    return await KINDS[payload["kind"]].run()


@handler("short.process", process=True)
def run_process_shortly(payload: Any) -> Any:
    return KINDS[payload["kind"]].run()


# The neighbours: they run beside a kind, from before its start until after its end, and must not notice.


@handler("neighbour.async")
async def neighbour_async(payload: Any, context: Context) -> int:
    while not Path(payload["until"]).exists():  # noqa: ASYNC110, ASYNC240 - it turns as a loop of others would
        await asyncio.sleep(0.05)
    return context.attempt


@handler("neighbour.thread")
def neighbour_thread(payload: Any, context: Context) -> int:
    while not Path(payload["until"]).exists():
        time.sleep(0.05)
    return context.attempt


@handler("neighbour.process", process=True)
def neighbour_process(payload: Any, context: Context) -> int:
    while not Path(payload["until"]).exists():
        time.sleep(0.05)
    return context.attempt


@handler("quick.async")
async def quick_async(_: Any, context: Context) -> int:
    """Ends in time, unless its loop is held up."""
    await asyncio.sleep(1)
    return context.attempt


@handler("quick.thread")
def quick_thread(_: Any, context: Context) -> int:
    time.sleep(1)
    return context.attempt

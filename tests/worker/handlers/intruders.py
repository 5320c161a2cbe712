"""Handlers that reach for what belongs to others: the next task, another type's tasks, the worker's secrets."""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, Final

from dtq import handler

PR_SET_CHILD_SUBREAPER: Final = 36
NAP_SECONDS: Final = 120
"""How long a daemon lives, in seconds: longer than a test."""
FORGED: Final = {"value": "forged", "nonce": "0" * 32}


@handler("intruder.pid", process=True)
def own_pid(_: Any) -> int:
    return os.getpid()


@handler("intruder.other", process=True)
def other_pid(_: Any) -> int:
    return os.getpid()


def forged_line() -> bytes:
    """Return an answer as a child writes it, but without the nonce of a run."""
    return json.dumps(FORGED).encode() + b"\n"


def pipes() -> list[int]:
    """Return the descriptors of the pipes to the worker."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        number = int(descriptor.name)
        if number > 2 and descriptor.is_fifo():
            found.append(number)
    return found


@handler("intruder.forger", process=True)
def forge(payload: Any) -> int:
    """Return the own pid; write a forged answer: before the true one, or right after it for the next run."""
    if payload == "before":
        for pipe in pipes():
            try:
                os.write(pipe, forged_line())
            except OSError:
                continue  # the end to read from
    if payload == "after":
        child: Any = sys.modules["__main__"]
        encoded = child.encoded
        child.encoded = lambda answer: encoded(answer) + b"\n" + forged_line().rstrip()
    return os.getpid()


def start_daemon(pid_file: str) -> None:
    """Leave a daemon behind: forked twice, in a session of its own, another program with an empty environment."""
    if os.fork() == 0:
        os.setsid()
        if (pid := os.fork()) == 0:
            os.execve("/bin/sleep", ["sleep", str(NAP_SECONDS)], {})
        Path(pid_file).write_text(str(pid))
        os._exit(0)
    os.wait()


@handler("intruder.daemon", process=True)
def leave_daemon(payload: Any) -> int:
    """Leave a daemon behind; then return, crash, hang, or give up the adoption of orphans and return."""
    if payload["then"] == "disown":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    start_daemon(payload["pid_file"])
    if payload["then"] == "crash":
        os._exit(9)
    if payload["then"] == "hang":
        time.sleep(NAP_SECONDS)
    return os.getpid()


@handler("intruder.thread")
def leave_daemon_in_worker(payload: Any) -> int:
    """Leave a daemon behind in the worker itself."""
    start_daemon(payload["pid_file"])
    return os.getpid()


@handler("intruder.reader", process=True)
def read_process(payload: Any) -> dict[str, str]:
    """Return how a process keeps its files of /proc from this one: the worker by default."""
    folder = Path("/proc") / str(payload.get("pid") or os.getppid())
    return {name: attempt_to_read(folder / name) for name in ("environ", "mem", "maps", "fd/0")}


@handler("intruder.environ")
def worker_environ(_: Any) -> list[str]:
    """Return the names of the environment that a program gets which a threaded handler starts."""
    return sorted(name for name in os.environ if name.startswith(("DB_", "RMQ_")))


def attempt_to_read(path: Path) -> str:
    try:
        if path.is_symlink():
            path.readlink()
        else:
            with path.open("rb") as file:
                file.seek(0)
    except PermissionError:
        return "denied"
    return "read"

"""Forks: releases what a process forked by a handler inherits from its worker.

A forked child inherits the worker's signal handlers, its event loop's wake-up descriptor and its sockets: a signal to
the child would stop the worker, and for Postgres and RabbitMQ a dead worker's connections would stay open. Must not
touch what belongs to the handler.
"""

import asyncio
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import TracebackType
from typing import Final, NoReturn
from weakref import WeakSet

_transports: Final[WeakSet[asyncio.BaseTransport]] = WeakSet()
_tls_transports: Final[list[asyncio.BaseTransport]] = []
"""The TLS connections: uvloop's transports of these cannot be referred to weakly."""
_servers: Final[WeakSet[asyncio.Server]] = WeakSet()
"""The sockets of the worker's loops: a module variable, since a fork copies the whole process."""


def remember_connection(transport: asyncio.BaseTransport) -> None:
    """Make forked children close this connection of the worker."""
    try:
        _transports.add(transport)
    except TypeError:
        _tls_transports[:] = [*(known for known in _tls_transports if not known.is_closing()), transport]


def remember_server(server: asyncio.Server) -> None:
    """Make forked children close this listener of the worker."""
    _servers.add(server)


class Isolation:
    """Detaches every process that this one forks from the worker. Create it once, in the thread of `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._loop_thread = threading.get_ident()
        self._pid = os.getpid()
        self._forking = threading.local()
        os.register_at_fork(before=self._before, after_in_parent=self._unblock, after_in_child=self._after_in_child)

    def _before(self) -> None:
        # A signal between the fork and `_after_in_child` would go to the worker.
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        self._forking.in_worker = os.getpid() == self._pid

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def _after_in_child(self) -> None:
        if not self._forking.in_worker:  # a helper forks: what it holds is its own
            self._unblock()
            return
        try:
            self._leave_worker()
        finally:
            self._unblock()
            # Only now: a KeyboardInterrupt in this function would be swallowed, and the child would go on.
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def _leave_worker(self) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # libuv has a handler that Python does not know of
        for descriptor in _descriptors():
            give_up(descriptor)
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(_end_stray)


class EndsForks:
    """A context manager: a process that was forked in its block ends with the block, since later code is the worker's.

    Exit codes and messages are those of a Python program that ends the same way.
    """

    def __enter__(self) -> None:
        self._pid = os.getpid()

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if os.getpid() != self._pid:
            end_process(error)


def end_process(error: BaseException | None = None) -> NoReturn:
    """End this process as Python would, but without destructors: they would use what the parent owns."""
    code, words = 0, ""
    match error:
        case None | SystemExit(code=None):
            pass
        case SystemExit(code=int(number)):
            code = number & 0xFF
        case SystemExit(code=text):
            code, words = 1, f"{text}\n"
        case _:
            code, words = 1, "".join(traceback.format_exception(error))
    with suppress(Exception):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, words.encode("utf-8", "replace"))
    os._exit(code)


def give_up(descriptor: int) -> None:
    """Point a descriptor at nothing. Its number stays taken, so that a destructor does not close another file."""
    nothing = os.open(os.devnull, os.O_RDWR)
    with suppress(OSError):
        os.dup2(nothing, descriptor, inheritable=False)
    os.close(nothing)


def _descriptors() -> list[int]:
    sockets = [
        transport.get_extra_info("socket")
        for transport in (*_transports, *_tls_transports)
        if not transport.is_closing()
    ]
    sockets += [socket for server in _servers for socket in server.sockets]
    # The descriptor of a closed socket is -1; the standard streams belong to the handler.
    return [socket.fileno() for socket in sockets if socket is not None and socket.fileno() > 2]  # noqa: PLR2004


def _end_stray() -> None:
    """End a child that returned to the event loop: it would run every other task of the worker a second time."""
    end_process(SystemExit("dtq: a process forked by an async handler must not await: end it in the handler"))

"""The worker's event loops, which handlers share with it and must not end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog
import uvloop

from dtq_worker import forks

_log = structlog.get_logger(__name__)


class WorkerLoop(uvloop.Loop):
    """The loop on which the worker's parts and its async handlers run."""

    async def create_connection(self, *args: Any, **how: Any) -> Any:
        """Connect; a forked child gives the connection up."""
        made: Any = await super().create_connection(*args, **how)
        forks.remember_connection(made[0])
        return made

    async def create_server(self, *args: Any, **how: Any) -> Any:
        """Listen; a forked child gives the listener up."""
        server: Any = await super().create_server(*args, **how)
        forks.remember_server(server)
        return server


class LeaseLoop(asyncio.SelectorEventLoop):
    """The loop of the thread that renews the lease."""

    async def create_connection(self, *args: Any, **how: Any) -> Any:
        """Connect; a forked child gives the connection up."""
        made: Any = await super().create_connection(*args, **how)
        forks.remember_connection(made[0])
        return made


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, whatever handlers do to the loop meanwhile.

    A task or a callback that raises SystemExit or KeyboardInterrupt ends the loop around it, and so does `loop.stop()`.
    The loop then goes on where it was, with the callbacks that were ready.
    """
    with asyncio.Runner(loop_factory=WorkerLoop) as runner:
        loop = runner.get_loop()
        forks.Isolation(loop)
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # a handler's: the end of the worker is the end of the task
                if loop.is_closed():
                    raise
                if not task.done():
                    _log.warning("event loop resumed", error=type(error).__name__)
        task.result()

"""The worker's event loops, which handlers share and must not stop."""

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
        """Connect; a forked child closes the connection."""
        made: Any = await super().create_connection(*args, **how)
        forks.remember_connection(made[0])
        return made

    async def create_server(self, *args: Any, **how: Any) -> Any:
        """Listen; a forked child closes the listener."""
        server: Any = await super().create_server(*args, **how)
        forks.remember_server(server)
        return server


class LeaseLoop(asyncio.SelectorEventLoop):
    """The loop of the thread that renews the lease."""

    async def create_connection(self, *args: Any, **how: Any) -> Any:
        """Connect; a forked child closes the connection."""
        made: Any = await super().create_connection(*args, **how)
        forks.remember_connection(made[0])
        return made


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, whatever handlers do to the loop meanwhile.

    A task or a callback that raises SystemExit or KeyboardInterrupt stops its event loop, and so does `loop.stop()`.
    The loop is then started again and continues with the callbacks that were ready.
    """
    with asyncio.Runner(loop_factory=WorkerLoop) as runner:
        loop = runner.get_loop()
        forks.Isolation(loop)
        task = loop.create_task(main)
        while not task.done():
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # raised by a handler: the worker ends only when its task ends
                if loop.is_closed():
                    raise
                if not task.done():
                    _log.warning("event loop resumed", error=type(error).__name__)
        task.result()

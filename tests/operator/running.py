"""The operator in this process: start, stop, and inspection."""

import asyncio
from typing import Any, Self

import kopf

from dtq.runtime.loops import wait
from dtq.runtime.settings import OperatorSettings
from dtq_db.connections import Database
from dtq_operator.kube import Kube
from dtq_operator.main import Operator
from dtq_operator.shared import Intervals
from dtq_operator.watch import configure

QUICK = Intervals(scaling_seconds=0.3, serving_seconds=0.3, wait_seconds=0.5, orphan_seconds=0.5, measure_seconds=0.2)
STOP_SECONDS = 30.0


class Running:
    """An operator that runs until the end of the block."""

    def __init__(
        self, settings: OperatorSettings, *, pace: Intervals = QUICK, kopf_settings: kopf.OperatorSettings | None = None
    ) -> None:
        self._database = Database(settings.db_dsn.get_secret_value(), name="dtq-operator-test")
        kopf_settings = kopf_settings or configure()
        kopf_settings.watching.reconnect_backoff = 0.1
        self._kube = Kube()
        self.operator = Operator(settings, kopf_settings, self._database, self._kube, pace)
        self._stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_over = False

    async def __aenter__(self) -> Self:
        await self._database.__aenter__()
        await self._kube.__aenter__()
        self.task = asyncio.create_task(self.operator.run(self._stop))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    async def end(self) -> None:
        """Stop it as SIGTERM would; twice is once."""
        if self.is_over:
            return
        self.is_over = True
        self._stop.set()
        assert self.task is not None
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self.task
        finally:
            await self._kube.__aexit__(None, None, None)
            await self._database.__aexit__(None, None, None)

    @property
    def has_ended(self) -> bool:
        """Whether the operator ended without being stopped, which it never should."""
        assert self.task is not None
        return self.task.done() and not self.is_over

    def metric(self, name: str, **labels: Any) -> float:
        """Return the value of a metric; 0 before the first count."""
        return self.operator.registry.get_sample_value(name, labels) or 0.0

    async def sweep(self) -> None:
        """Sweep now, and wait until what it found is done."""
        await self.operator.sweep.once()
        await self.idle()

    async def idle(self) -> None:
        """Wait until nothing is due."""
        async with asyncio.timeout(STOP_SECONDS):
            while self.operator.queue.depth:
                await wait(asyncio.Event(), 0.02)

"""The maintenance process: runs the roles without an API, for installations with many API replicas."""

import asyncio

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from dtq.domain.queue_sets import QueueSets
from dtq.runtime.loops import Ticker, every, stop_on_signals
from dtq.runtime.metrics import LoopMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import MaintenanceSettings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_maintenance.health import Health
from dtq_maintenance.maintenance import Maintenance

REFRESH_SECONDS = 1.0
"""How often the process checks whether queue sets have changed, in seconds."""

_log = structlog.get_logger(__name__)


async def run(settings: MaintenanceSettings) -> None:
    """Run the roles until SIGTERM or SIGINT."""
    async with Database(lambda: settings.dsn, name="dtq-maintenance") as database:
        await Process(settings, database).run(stop_on_signals())


class Process:
    """The parts of the maintenance process and their lifetime."""

    def __init__(self, settings: MaintenanceSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queue_sets = QueueSets()
        self._revision = -1
        self._loops = LoopMetrics(registry := CollectorRegistry())
        self._registry = registry
        self._ticker = Ticker()
        self.maintenance = Maintenance(
            settings,
            database,
            queue_sets=self._queue_sets,
            registry=registry,
            loops=self._loops,
            ticker=self._ticker,
        )
        self._health = Health(
            database, self.maintenance.publisher, self.maintenance.declarer, queue_sets=self._queue_sets
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until `stop`."""
        app = probe_app(self._registry, ready=self._health.ready)
        serving = server(app, self._settings.maintenance_http_port, grace_seconds=1)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(serve_until(stop, serving))
            refresh = self._loops.instrumented("catalog", self._refresh)
            parts.create_task(every(REFRESH_SECONDS, refresh, stop, name="catalog", ticker=self._ticker))
            self.maintenance.start_base(parts, stop, stop)
            self.maintenance.start_roles(parts, stop)
            _log.info("maintenance started", address="{}:{}".format(*self._settings.maintenance_http_port))
        _log.info("maintenance stopped")

    async def _refresh(self) -> bool:
        return await self.maintenance.follow(self._revision, self._read)

    async def _read(self) -> None:
        revision = await catalog.revision(self._database)  # first: a later change is read by the next call
        self._queue_sets.replace(await catalog.queue_sets(self._database))
        self._revision = revision


def main(settings: MaintenanceSettings) -> None:
    """Run the process on uvloop."""
    uvloop.run(run(settings))

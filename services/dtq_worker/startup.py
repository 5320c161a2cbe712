"""The start of a worker: waits for Postgres and for a declared queue; meanwhile the process is live but not ready."""

import asyncio
from collections.abc import Mapping

import structlog
from prometheus_client import CollectorRegistry

from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.queue_sets import QueueSets
from dtq.runtime.loops import Retries
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import WorkerSettings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_reconcile.embedded import ensure_default

_log = structlog.get_logger(__name__)


class StartupWait:
    """The wait for Postgres and for the queues of this worker: the process is live but not ready."""

    def __init__(self, settings: WorkerSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._reason = "just started"

    async def queue_sets(self, stop: asyncio.Event) -> Mapping[str, QueueSetSpec] | None:
        """Return the queue sets once one of this worker's queues is declared; None if `stop` came first."""
        over = asyncio.Event()
        app = probe_app(CollectorRegistry(), ready=self._trouble)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(serve_until(over, server(app, self._settings.worker_http_port, grace_seconds=1)))
            found = await self._found(stop)
            over.set()
        # The last event counts: a worker that was told to stop takes no lease.
        return None if stop.is_set() else found

    async def _found(self, stop: asyncio.Event) -> Mapping[str, QueueSetSpec] | None:
        settings, retries = self._settings, Retries()
        while not stop.is_set():
            try:
                await ensure_default(self._database, settings)
                found = await catalog.queue_sets(self._database)
                ours = QueueSets(found).with_prefix(settings.rmq_namespace)
                if set(settings.queues) & {queue.name for spec in ours.values() for queue in spec.queues}:
                    return found
                self._reason = none_declared(settings)
            except Unavailable as error:
                self._reason = str(error)
            retries.failed()
            _log.warning("worker start delayed", reason=self._reason)
            await retries.pause(stop)
        return None

    async def _trouble(self) -> dict[str, str]:
        return {"start": self._reason}


def none_declared(settings: WorkerSettings) -> str:
    """Return the reason of a worker whose QUEUES are all missing."""
    return (
        f"none of QUEUES ({', '.join(settings.queues)}) is declared with prefix {settings.rmq_namespace}:"
        " declare a QueueSet, or correct QUEUES or RMQ_NAMESPACE"
    )

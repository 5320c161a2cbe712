"""The operator process: builds its parts and runs them until a signal.

kopf serves only as the informer: its event handlers put keys into our work queue, so kopf adds no annotation, finalizer
or retry of its own to an object.
"""

import asyncio
import time
from typing import Final

import kopf
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from dtq.runtime.loops import every, stop_on_signals
from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import OperatorSettings
from dtq_db.connections import Database
from dtq_operator.backends import Backends
from dtq_operator.bootstrap import create_absent, read
from dtq_operator.conditions import is_ready
from dtq_operator.events import Events
from dtq_operator.kube import Kube, Object
from dtq_operator.reconciler import Reconciler
from dtq_operator.scaling import Scaler
from dtq_operator.serving import Serving
from dtq_operator.shared import Intervals, Shared
from dtq_operator.store import Key, Store
from dtq_operator.sweep import Sweep
from dtq_operator.watch import Watch, configure
from dtq_operator.workqueue import WorkQueue

CONCURRENCY: Final = 6
"""Objects reconciled at once: fewer than the pool's connections, so that a sweep finds a free connection."""
STALE_SWEEPS: Final = 5
"""Sweeps that may fail to complete before the process counts as stuck."""

_log = structlog.get_logger(__name__)


async def run(settings: OperatorSettings) -> None:
    """Reconcile until SIGTERM or SIGINT."""
    stop = stop_on_signals()
    kopf_settings = configure()
    async with (
        Database(lambda: settings.dsn, name="dtq-operator") as database,
        Kube() as kube,
    ):
        await Operator(settings, kopf_settings, database, kube).run(stop)


class Operator:
    """The parts of the operator process and their lifetime."""

    def __init__(
        self,
        settings: OperatorSettings,
        kopf_settings: kopf.OperatorSettings,
        database: Database,
        kube: Kube,
        pace: Intervals | None = None,
    ) -> None:
        self._settings = settings
        self._pace = pace or Intervals()
        self._kube = kube
        self._bootstrap = read(settings.bootstrap_file) if settings.bootstrap_file else []
        self.registry = CollectorRegistry()
        self.metrics = OperatorMetrics(self.registry)
        self.store = Store()
        self.watch = Watch(kopf_settings, settings.watch_namespaces, self._on_event)
        self.queue: WorkQueue[Key] = WorkQueue(self._reconcile, concurrency=CONCURRENCY)
        self.events = Events(kube)
        shared = Shared(
            settings=settings,
            pace=self._pace,
            kube=kube,
            database=database,
            store=self.store,
            queue=self.queue,
            events=self.events,
            metrics=self.metrics,
        )
        self.scaler = Scaler(shared)
        self.serving = Serving(shared, self.scaler.desired)
        self.backends = Backends(shared, hints=self.scaler.hints, served=self.serving.condition)
        self.reconciler = Reconciler(shared, self.backends)
        self.sweep = Sweep(shared, self.watch.versions)

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until `stop`."""
        app = probe_app(self.registry, alive=self._alive)
        serving = server(app, self._settings.operator_http_port, grace_seconds=1)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(serve_until(stop, serving))
            parts.create_task(self.queue.run(stop))
            parts.create_task(self.backends.postgres.run(stop))
            parts.create_task(self.backends.rabbitmq.run(stop))
            parts.create_task(every(self._settings.resync_seconds, self.sweep.once, stop, name="sweep"))
            parts.create_task(every(self._settings.resync_seconds, self.events.catch_up, stop, name="events"))
            parts.create_task(every(self._pace.scaling_seconds, self.scaler.once, stop, name="scaling"))
            parts.create_task(every(self._pace.serving_seconds, self.serving.once, stop, name="serving"))
            parts.create_task(every(self._pace.measure_seconds, self._measure, stop, name="metrics"))
            parts.create_task(create_absent(self._kube, self._bootstrap, stop))
            parts.create_task(self.watch.run(stop))
            _log.info("operator started", namespaces=self._settings.watch_namespaces or "all")
        _log.info("operator stopped")

    def _on_event(self, type_: str | None, key: Key, obj: Object) -> None:
        """Store an event of the watch, and queue its object for reconciling."""
        if type_ == "DELETED":
            self.store.remove(key, obj)
        else:
            known = self.store.get(key)
            if known is not None and known["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
                return  # the echo of our own write
            self.store.put(key, obj)
        self.queue.add(key)
        if key.kind == "QueueSet":
            self._look_at_types_of(key)

    def _look_at_types_of(self, queue_set: Key) -> None:
        """Queue the task types that wait for a queue set, so that they need not wait for the next sweep."""
        for key, obj in self.store.of_kind("TaskType"):
            ref = (obj["spec"].get("queueSetRef") or {}).get("name", "default")
            if key.namespace == queue_set.namespace and ref == queue_set.name and not is_ready(obj):
                self.queue.add(key, after_seconds=0.5)

    async def _reconcile(self, key: Key) -> float | None:
        return await self.reconciler.reconcile(key)

    async def _measure(self) -> bool:
        self.metrics.depth.set(self.queue.depth)
        self.metrics.oldest.set(self.queue.oldest_seconds)
        for breaker in (self.backends.postgres, self.backends.rabbitmq):
            self.metrics.backend_up.labels(breaker.name).set(0 if breaker.is_open else 1)
        self.metrics.requests.inc(self._kube.requests)
        self._kube.requests = 0
        return False

    async def _alive(self) -> dict[str, str]:
        """Return failures that only a restart can fix: a sweep that hangs or a silent watch; never an outage."""
        bound = STALE_SWEEPS * self._settings.resync_seconds
        now = time.monotonic()
        wrong = {}
        if (silence := now - self.sweep.tried_at) > bound:
            wrong["sweep"] = f"the last sweep ended {silence:.0f} s ago"
        if self.sweep.behind_since is not None and (silence := now - self.sweep.behind_since) > bound:
            wrong["watch"] = f"the watch has missed objects that the API server lists for {silence:.0f} s"
        return wrong


def main(settings: OperatorSettings) -> None:
    """Run the process on uvloop."""
    uvloop.run(run(settings))

"""The operator process: kopf watches, everything else is ours.

Owns the composition. kopf serves as the informer only: its event handlers put keys into our queue, so it adds
no annotation, no finalizer and no retry of its own to an object.
"""

import asyncio
import logging
import time
from typing import Any, Final

import kopf
import structlog
import uvloop
from prometheus_client import CollectorRegistry

from dtq.runtime.loops import every, stop_on_signals
from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import Settings
from dtq_db.connections import Database
from dtq_operator.backends import Backends
from dtq_operator.bootstrap import create_absent, read
from dtq_operator.crd import GROUP, VERSION
from dtq_operator.events import COMPONENT, Events
from dtq_operator.kube import PLURALS, Kube, login
from dtq_operator.pace import Pace
from dtq_operator.reconciler import Reconciler
from dtq_operator.scaling import Scaler
from dtq_operator.store import Key, Store, key_of
from dtq_operator.sweep import Sweep
from dtq_operator.workqueue import WorkQueue

CONCURRENCY: Final = 6
"""Objects reconciled at once: fewer than the pool's connections, so that a sweep finds one free."""
STALE_SWEEPS: Final = 5
"""Sweeps that may be missing before the process counts as stuck."""

_log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Reconcile until SIGTERM or SIGINT."""
    stop = stop_on_signals()
    kopf_settings = configure()
    async with (
        Database(lambda: settings.dsn, name="dtq-operator") as database,
        Kube(kopf_settings) as kube,
    ):
        await Operator(settings, kopf_settings, database, kube).run(stop)


class Operator:
    """The parts of the operator process and their lifetime."""

    def __init__(
        self,
        settings: Settings,
        kopf_settings: kopf.OperatorSettings,
        database: Database,
        kube: Kube,
        pace: Pace | None = None,
    ) -> None:
        self._settings = settings
        self._pace = pace or Pace()
        self._kopf_settings = kopf_settings
        self._kube = kube
        self._bootstrap = read(settings.bootstrap_file) if settings.bootstrap_file else []
        self.registry = CollectorRegistry()
        self.metrics = OperatorMetrics(self.registry)
        self.store = Store()
        self.queue: WorkQueue[Key] = WorkQueue(self._reconcile, concurrency=CONCURRENCY)
        events = Events(kube)
        self.scaler = Scaler(settings, kube, self.store, database, events, changed=self.queue.add, metrics=self.metrics)
        self.backends = Backends(settings, database, requeue=self.queue.add, desired=self.scaler.desired)
        self.reconciler = Reconciler(
            kube,
            self.store,
            self.backends,
            events,
            give_up_seconds=settings.delete_give_up_seconds,
            wait_seconds=self._pace.wait_seconds,
            metrics=self.metrics,
        )
        self.sweep = Sweep(
            kube,
            self.store,
            database,
            self.queue,
            namespaces=settings.watch_namespaces,
            orphan_seconds=self._pace.orphan_seconds,
            metrics=self.metrics,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until `stop`."""
        app = probe_app(self.registry, ready=self._no_trouble, alive=self._alive)
        serving = server(app, self._settings.operator_http_port, grace_seconds=1)
        async with asyncio.TaskGroup() as parts:
            parts.create_task(serve_until(stop, serving))
            parts.create_task(self.queue.run(stop))
            parts.create_task(self.backends.postgres.run(stop))
            parts.create_task(self.backends.rabbitmq.run(stop))
            parts.create_task(every(self._settings.resync_seconds, self.sweep.once, stop, name="sweep"))
            parts.create_task(every(self._pace.scaling_seconds, self.scaler.once, stop, name="scaling"))
            parts.create_task(every(self._pace.measure_seconds, self._measure, stop, name="metrics"))
            parts.create_task(create_absent(self._kube, self._bootstrap, stop))
            _log.info("operator watches", namespaces=self._settings.watch_namespaces or "all")
            await self._watch(stop)
            stop.set()
        _log.info("operator ended")

    async def _watch(self, stop: asyncio.Event) -> None:
        """Let kopf watch until `stop`."""
        namespaces = self._settings.watch_namespaces
        await kopf.operator(
            registry=self._handlers(),
            settings=self._kopf_settings,
            standalone=True,
            clusterwide=not namespaces,
            namespaces=namespaces,
            stop_flag=stop,
        )

    def _handlers(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(login)
        for kind, plural in PLURALS.items():
            kopf.on.event(GROUP, VERSION, plural, registry=registry, id=f"on-{plural}", param=kind)(self._on_event)
        return registry

    async def _on_event(self, *, type: str, body: kopf.Body, param: Any = None, **_: Any) -> None:  # noqa: A002
        """Note what the watch says, and have it looked at; `type` is None for what was there before."""
        obj = dict(body)
        key = key_of(param, obj)
        if type == "DELETED":
            self.store.remove(key, obj)
        else:
            known = self.store.get(key)
            if known is not None and known["metadata"]["resourceVersion"] == obj["metadata"]["resourceVersion"]:
                return  # our own write, told back to us
            self.store.put(key, obj)
        self.queue.add(key)
        if key.kind == "QueueSet":
            self._look_at_types_of(key)

    def _look_at_types_of(self, queue_set: Key) -> None:
        """Task types that wait for a queue set need not wait for the next sweep."""
        for key, obj in self.store.of_kind("TaskType"):
            ref = (obj["spec"].get("queueSetRef") or {}).get("name", "default")
            if key.namespace == queue_set.namespace and ref == queue_set.name and not _is_ready(obj):
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
        """Stale means that no sweep came to its end for long though the API server answers; never an outage."""
        silence = time.monotonic() - self.sweep.ended_at
        outage = self.backends.postgres.is_open
        if silence > STALE_SWEEPS * self._settings.resync_seconds and not outage:
            return {"sweep": f"the last one ended {silence:.0f} s ago"}
        return {}

    async def _no_trouble(self) -> dict[str, str]:
        return {}


def configure() -> kopf.OperatorSettings:
    """Return kopf's settings: no peering, no scanning, bounded waits, few logs."""
    settings = kopf.OperatorSettings()
    settings.peering.standalone = True
    settings.scanning.disabled = True
    settings.posting.enabled = False
    settings.posting.reporting_component = COMPONENT
    settings.watching.connect_timeout = 5
    settings.watching.client_timeout = 600
    settings.watching.inactivity_timeout = 70
    settings.watching.reconnect_backoff = 1.0
    settings.networking.connect_timeout = 5
    settings.networking.request_timeout = 30
    settings.networking.error_backoffs = (1, 2, 3, 5, 8, 13)
    settings.process.ultimate_exiting_timeout = 25
    logging.getLogger("kopf").setLevel(logging.WARNING)
    return settings


def _is_ready(obj: Any) -> bool:
    found = (obj.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in found)


def main(settings: Settings) -> None:
    """Run the process on uvloop."""
    uvloop.run(run(settings))

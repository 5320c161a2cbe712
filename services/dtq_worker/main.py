"""The worker process: builds its parts, runs them until a signal, then drains."""

import asyncio
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry

from dtq.broker.consumer import TEND_SECONDS, Consumer, Subscription
from dtq.broker.publisher import Publisher
from dtq.broker.topology_declarer import RETRY_SECONDS, TopologyDeclarer
from dtq.domain.limits import LOST_AHEAD_SECONDS
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.queue_sets import QueueSets
from dtq.domain.stored import Newer
from dtq.domain.topology import work_queue
from dtq.handlers import Handler, Mode
from dtq.runtime import failpoints
from dtq.runtime.loops import StopSignals, Ticker, every
from dtq.runtime.metrics import BrokerMetrics, WorkerMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import WorkerSettings
from dtq_db import catalog, maintenance
from dtq_db.connections import Database
from dtq_worker import event_loop, memory, prctl, registry
from dtq_worker.finisher import Finisher
from dtq_worker.handing_on import HandingOn
from dtq_worker.intake import Intake
from dtq_worker.lease import Lease
from dtq_worker.processes import Processes
from dtq_worker.runner import Runner
from dtq_worker.running import RunningTasks
from dtq_worker.secret_environ import forget_secrets
from dtq_worker.startup import StartupWait, none_declared
from dtq_worker.unblocker import Unblocker

CATALOG_SECONDS: Final = 2.0
"""How often the worker checks whether queue sets have changed, in seconds."""
RESUBSCRIBE_SECONDS: Final = 10.0
"""How often an idle subscription is renewed, in seconds: bounds how long a worker may get no messages unnoticed."""
LAG_SECONDS: Final = 1.0
"""How often the event loop's lag is measured, in seconds."""

SIGNAL_SECONDS: Final = 1.0
"""How often the worker checks whether a handler has replaced its signal handlers, in seconds."""
EXIT_SECONDS: Final = 2.0
"""How long the process may take to exit after everything is recorded, in seconds: for the exit hooks of handlers."""

_log = structlog.get_logger(__name__)


async def run(settings: WorkerSettings) -> None:
    """Work until SIGTERM or SIGINT, then drain.

    Raises:
        Rejected: the handlers cannot be loaded.
    """
    handlers = registry.load(settings.worker_handlers)
    if any(handler.mode is Mode.PROCESS for handler in handlers.values()):
        prctl.adopt_orphans()  # those of child processes, which are then found and killed
    signals, over, ticker = StopSignals(), asyncio.Event(), Ticker()
    exit_code = 1
    try:
        async with asyncio.TaskGroup() as parts:
            parts.create_task(every(SIGNAL_SECONDS, signals.keep, over, name="signals", ticker=ticker))
            await _work(settings, handlers, ticker, signals.stop)
            over.set()
        exit_code = 0
    finally:
        _end_soon(exit_code)


async def _work(settings: WorkerSettings, handlers: Mapping[str, Handler], ticker: Ticker, stop: asyncio.Event) -> None:
    async with Database(lambda: settings.dsn, name="dtq-worker") as database:
        queue_sets = await StartupWait(settings, database).queue_sets(stop)
        if queue_sets is None:
            return
        worker = Worker(settings, database, handlers, queue_sets, ticker)
        await worker.run(stop)
    if worker.running.is_held_up:
        _log.warning("running handlers abandoned")


def _end_soon(exit_code: int) -> None:
    """Bound the remaining time of the process: threads and the like that handlers left behind may never end."""

    def end() -> None:
        _log.warning("handler leftovers abandoned")
        sys.stdout.flush()
        os._exit(exit_code)

    timer = threading.Timer(EXIT_SECONDS, end)
    timer.daemon = True
    timer.start()


class Worker:
    """The parts of the worker process and their lifetime."""

    def __init__(
        self,
        settings: WorkerSettings,
        database: Database,
        handlers: Mapping[str, Handler],
        queue_sets: Mapping[str, QueueSetSpec],
        ticker: Ticker,
    ) -> None:
        self._settings = settings
        self._database = database
        self._ticker = ticker
        self._queue_sets = QueueSets(queue_sets)
        self._consumed = QueueSets(self._with_our_prefix())
        self._followed: Mapping[str, QueueSetSpec] = dict(self._consumed)
        self._revision = -1
        self._newer = Newer()
        self._types = sorted(handlers)
        self.registry = CollectorRegistry()
        self._metrics, broker_metrics = WorkerMetrics(self.registry), BrokerMetrics(self.registry)
        self._metrics.expect(handlers)
        self.declarer = TopologyDeclarer(
            lambda: settings.rmq_url,
            queue_sets=self._consumed,
            on_lost=self._on_lost,
            on_dead_letters_lost=self._on_dead_letters_lost,
            metrics=broker_metrics,
        )
        self._watch_connection = database.dedicated("watch")
        self.publisher = Publisher(
            lambda: settings.rmq_url,
            declare=self.declarer.declare,
            refusal=self.declarer.refusal,
            metrics=broker_metrics,
            timeout_seconds=settings.publish_timeout_seconds,
        )
        self.consumer = Consumer(
            lambda: settings.rmq_url,
            subscriptions=self._subscriptions(),
            window=min(settings.worker_prefetch, settings.concurrency),
            declare=self.declarer.declare,
            metrics=broker_metrics,
        )
        self.processes = Processes(settings.worker_handlers, children_max=settings.concurrency)
        self.finisher = Finisher(
            database.dedicated("finish"),
            self.publisher,
            Unblocker(database.dedicated("unblock"), self.publisher, queue_sets=self._queue_sets),
            queue_sets=self._queue_sets,
            metrics=self._metrics,
        )
        running: Counter[str] = Counter()
        self.lease = Lease(
            lambda: settings.dsn,
            name=f"{socket.gethostname()}:{os.getpid()}",
            namespace=settings.rmq_namespace,
            queues=settings.queues,
            types=sorted(handlers),
            concurrency=settings.concurrency,
            running=running,
            on_cancel=self._on_cancel,
            on_fence=self._on_fence,
            memory=memory.look,
        )
        self.running = RunningTasks(
            Runner(handlers, self.processes),
            self.finisher,
            concurrency=settings.concurrency,
            by_queue=running,
            on_start=self.lease.watch,
            backoff=settings.backoff,
            metrics=self._metrics,
        )
        self.intake = Intake(
            self.consumer,
            database.dedicated("claim"),
            self.lease,
            self.running,
            self.finisher,
            HandingOn(self.publisher, namespace=settings.rmq_namespace, types=handlers),
            types=sorted(handlers),
            prefetch=settings.worker_prefetch,
            metrics=self._metrics,
            ticker=ticker,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; then stop consuming, let handlers end, record their attempts, and end the lease."""
        stop_finishing, stop_rest = asyncio.Event(), asyncio.Event()
        app = probe_app(self.registry, ready=self._trouble)
        serving = server(app, self._settings.worker_http_port, grace_seconds=1)
        self.lease.start()
        async with asyncio.TaskGroup() as parts:
            parts.create_task(serve_until(stop_rest, serving))
            parts.create_task(self.publisher.broker.run(stop_rest))
            parts.create_task(self.consumer.broker.run(stop_rest))
            start = partial(every, stop=stop, ticker=self._ticker)
            parts.create_task(start(CATALOG_SECONDS, self._refresh, name="catalog"))
            parts.create_task(start(RETRY_SECONDS, self.declarer.retry, name="declarations"))
            parts.create_task(start(TEND_SECONDS, self.consumer.tend, name="subscriptions"))
            parts.create_task(start(RESUBSCRIBE_SECONDS, self.consumer.resubscribe, name="renewals"))
            parts.create_task(self._measure_lag(stop_rest))
            parts.create_task(self.lease.held())
            finishing = parts.create_task(self.finisher.run(stop_finishing))
            _log.info("worker started", queues=self._settings.queues, concurrency=self._settings.concurrency)
            await self.intake.run(stop)
            await failpoints.hit("drain.started")
            await self.consumer.drain()
            await self.intake.drain(self._settings.worker_drain_seconds)
            stop_finishing.set()
            await finishing
            await failpoints.hit("drain.ended")
            await self.lease.end()
            await self.processes.close()
            stop_rest.set()
        _log.info("worker stopped")

    def _with_our_prefix(self) -> Mapping[str, QueueSetSpec]:
        """Return the queue set with this worker's prefix, by name: a worker declares no other queue set."""
        return self._queue_sets.with_prefix(self._settings.rmq_namespace)

    def _subscriptions(self) -> list[Subscription]:
        """Return the queues to consume: the declared ones, in the order of QUEUES."""
        prefetch = self._settings.worker_prefetch
        return [
            Subscription(queue=name, name=work_queue(spec.namespace, name), prefetch=prefetch)
            for spec in self._consumed.values()
            for name in self._settings.queues
            if name in {queue.name for queue in spec.queues}
        ]

    def _on_cancel(self, ids: list[UUID]) -> None:
        self.intake.cancel(ids)

    def _on_fence(self, worker_id: UUID, *, postgres_was_away: bool) -> None:
        self.intake.fence(worker_id, postgres_was_away=postgres_was_away)

    async def _trouble(self) -> dict[str, str]:
        trouble = {}
        if self.lease.worker_id is None:
            trouble["db"] = "no lease: Postgres does not answer"
        if not self.consumer.broker.is_up:
            trouble["rmq"] = "not connected to RabbitMQ"
        elif missing := self.consumer.missing:
            trouble["rmq"] = "; ".join(f"not consuming from {queue}: {reason}" for queue, reason in missing.items())
            for name, reason in self.declarer.refused.items():
                trouble[f"queue_set/{name}"] = f"not declared: {reason}"
        if not self._subscriptions():
            trouble["queues"] = none_declared(self._settings)
        return trouble

    async def _refresh(self) -> bool:
        """Follow changes of the queue sets: declare new topology and consume the declared queues.

        Raises:
            Unavailable: Postgres or RabbitMQ does not answer; the next call tries again.
        """
        revision = await catalog.revision(self._database)
        if revision == self._revision:
            return False
        stored = await catalog.stored_queue_sets(self._database)
        newer = replace(catalog.newer_of(stored), types=await catalog.newer_types(self._database, self._types))
        catalog.tell_newer(newer, self._newer)
        self._newer = newer
        self.intake.leave_to_newer(newer.types)
        self._queue_sets.replace({name: found.spec for name, found in stored.items()})
        self._consumed.replace(self._with_our_prefix())
        if self._consumed != self._followed:
            self.consumer.follow(self._subscriptions())
            if self.publisher.broker.is_up:  # otherwise its next connection declares
                await self.publisher.declare()
            await self.consumer.tend()
            self._followed = dict(self._consumed)
        self._revision = revision
        return False

    async def _on_lost(self, queue_set: str, queue: str) -> None:
        while (
            await maintenance.lost(self._watch_connection, queue_set, queue, -LOST_AHEAD_SECONDS) == maintenance.BATCH
        ):
            pass

    async def _on_dead_letters_lost(self, queue_set: str) -> None:
        await maintenance.dead_letters_lost(self._watch_connection, queue_set)

    async def _measure_lag(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self._ticker.wait(stop, LAG_SECONDS)
            self._metrics.lag.set(self._ticker.late_seconds)


def main(settings: WorkerSettings) -> None:
    """Run the process.

    Raises:
        Rejected: the handlers cannot be loaded.
    """
    prctl.forbid_inspection()  # by the child processes, which run as the same user
    forget_secrets()
    event_loop.run(run(settings))

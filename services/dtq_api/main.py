"""The API process: builds its parts and runs them until a signal.

Owns the order of start and end. The only place that connects things.
"""

import asyncio
from collections.abc import Mapping
from operator import attrgetter
from uuid import UUID

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from dtq.broker.inspect import drop_spent
from dtq.broker.keeper import RETRY_SECONDS, Keeper
from dtq.broker.publisher import Publisher
from dtq.domain.errors import Unavailable
from dtq.domain.limits import DELAY_SECONDS_MAX
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.topology import dead_letter_queue
from dtq.reconcile.embedded import ensure_default
from dtq.runtime import failpoints
from dtq.runtime.loops import every, stop_on_signals
from dtq.runtime.metrics import ApiMetrics, BacklogMetrics, BrokerMetrics, LoopMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import Settings, WhenBrokerDown
from dtq_api import loops
from dtq_api.app import Parts, build
from dtq_api.auth import gate
from dtq_api.backlog import BACKLOG_SECONDS, BacklogWatch
from dtq_api.catalog import REFRESH_SECONDS, CatalogCache
from dtq_api.confirms import Confirms
from dtq_api.due import DueCache
from dtq_api.health import ApiHealth
from dtq_api.lanes import Lanes
from dtq_api.scaling import ScalingHints
from dtq_api.scheduler import REPLAN_SECONDS, SCHEDULE_SECONDS, Scheduler
from dtq_db.connections import Database
from dtq_db.tasks import TaskStore
from dtq_db.upkeep import Work

GRACE_SECONDS = 10
"""How long requests at hand may take at the end, in seconds."""

_log = structlog.get_logger(__name__)


async def run(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with Database(lambda: settings.dsn, name="dtq-api") as database:
        api = Api(settings, database)
        await api.run(stop_on_signals())


class Api:
    """The parts of the API process and their lifetime."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self.registry = CollectorRegistry()
        metrics, broker_metrics = ApiMetrics(self.registry), BrokerMetrics(self.registry)
        self._loop_metrics = LoopMetrics(self.registry)
        self.catalog = CatalogCache(database)
        self.keeper = Keeper(
            lambda: settings.rmq_url,
            queue_sets=self.queue_sets,
            on_lost=self._on_lost,
            on_dead_letters_lost=self._on_dead_letters_lost,
            metrics=broker_metrics,
        )
        self.publisher = Publisher(
            lambda: settings.rmq_url,
            declare=self.keeper.declare,
            refusal=self.keeper.refusal,
            metrics=broker_metrics,
            timeout_seconds=settings.publish_timeout_seconds,
        )
        self.confirms = Confirms(database)
        self.lanes = Lanes(
            database,
            self.publisher,
            namespace_of=self._namespace_of,
            accept_when_down=settings.enqueue_when_broker_down is WhenBrokerDown.ACCEPT,
            metrics=metrics,
            confirmed=self.confirms.add,
        )
        self.due = DueCache(database)
        self.relay = loops.Relay(
            database,
            self.publisher,
            namespace_of=self._namespace_of,
            confirmed=self.confirms.add,
            closed=self._closed,
            metrics=metrics,
        )
        self.mover = loops.Mover(database)
        self.reaper = loops.Reaper(database, backoff=settings.backoff, metrics=metrics)
        self.pruner = loops.Pruner(database, events_retention_days=settings.events_retention_days, metrics=metrics)
        self.watch = loops.TopologyWatch(database, self.publisher, queue_sets=self.queue_sets, metrics=metrics)
        self.backlog = BacklogWatch(database, metrics=BacklogMetrics(self.registry))
        self.scheduler = Scheduler(database, metrics=metrics)
        self.tasks = TaskStore(database)
        self.gate = gate.gate_of(settings, metrics)
        self.health = ApiHealth(database, self.publisher, self.keeper, queue_sets=self.queue_sets)
        self._redriven: set[str] = set()
        self._has_looked = False
        self.app = build(
            Parts(
                catalog=self.catalog,
                lanes=self.lanes,
                trouble=self.keeper.trouble,
                tasks=self.tasks,
                scaling=ScalingHints(database, queue_sets=self.queue_sets, newer=lambda: self.catalog.current.newer),
                metrics=metrics,
                registry=self.registry,
                health=self.health.everything,
                ready=self.health.ready,
                after_redrive=self._redriven.update,
                gate=self.gate,
            )
        )

    def queue_sets(self) -> Mapping[str, QueueSetSpec]:
        """Return the declared queue sets, by name."""
        return self.catalog.current.queue_sets

    def _closed(self) -> list[str]:
        return self.keeper.closed

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until `stop`; then end them in the order in which they need each other."""
        stop_parts = asyncio.Event()
        serving = server(self.app, self._settings.http_port, grace_seconds=GRACE_SECONDS)
        async with asyncio.TaskGroup() as parts:
            noted = self._loop_metrics.noted
            parts.create_task(every(REFRESH_SECONDS, noted("catalog", self._refresh), stop_parts, name="catalog"))
            parts.create_task(every(gate.REFRESH_SECONDS, self.gate.refresh, stop_parts, name="auth"))
            parts.create_task(self.publisher.link.run(stop_parts))
            parts.create_task(self.confirms.run(stop_parts))
            for name, seconds, once in (
                ("relay", loops.RELAY_SECONDS, self.due.gated(Work.is_relay_due, self.relay.once)),
                ("mover", loops.MOVE_SECONDS, self.mover.once),
                ("reaper", loops.REAP_SECONDS, self.due.gated(attrgetter("reap"), self.reaper.once)),
                ("pruner", loops.PRUNE_SECONDS, self.pruner.once),
                ("topology", loops.WATCH_SECONDS, self.watch.once),
                ("scheduler", SCHEDULE_SECONDS, self.due.gated(attrgetter("fire"), self.scheduler.once)),
                ("schedules", REPLAN_SECONDS, self.scheduler.replan),
                ("backlog", BACKLOG_SECONDS, self.backlog.once),
                ("dead letters", loops.RELAY_SECONDS, self._drop_spent_dead_letters),
                ("declarations", RETRY_SECONDS, self.keeper.retry),
            ):
                parts.create_task(every(seconds, noted(name, once), stop, name=name))
            if self._settings.metrics_port is not None:
                metrics_app = probe_app(self.registry, ready=self.health.ready, alive=self._no_trouble)
                metrics_server = server(metrics_app, self._settings.metrics_port, grace_seconds=1)
                parts.create_task(serve_until(stop_parts, metrics_server))
            _log.info("api listens", address="{}:{}".format(*self._settings.http_port))
            await serve_until(stop, serving)
            await self.lanes.idle()
            stop_parts.set()
        await self.gate.close()
        _log.info("api ended")

    @staticmethod
    async def _no_trouble() -> dict[str, str]:
        return {}

    async def _refresh(self) -> bool:
        if not self.queue_sets():
            await ensure_default(self._database, self._settings)
        elif (await self.due.look()).revision == self.catalog.current.revision:
            return False
        before = self.queue_sets()
        await self.catalog.refresh()
        if self.queue_sets() != before and self.publisher.link.is_up:
            await self.publisher.declare()
        return False

    def _namespace_of(self, queue_set: str) -> str:
        spec = self.catalog.current.queue_sets.get(queue_set)
        # A set that is not declared cannot be published to: the message is returned, and the row waits.
        return spec.namespace if spec else queue_set

    async def _on_lost(self, queue_set: str, queue: str) -> None:
        # What waits on a rung of the retry ladder is due later and may be lost all the same.
        await self.watch.find_lost(queue_set, queue, waiting_seconds=-2.0 * DELAY_SECONDS_MAX)

    async def _on_dead_letters_lost(self, queue_set: str) -> None:
        await self.watch.recall_dead_letters(queue_set)

    async def _drop_spent_dead_letters(self) -> bool:
        """After a redrive, take the copies of what runs again out of the dead letter queues.

        And once at the start: whoever redrove may have died before it did.
        """
        if not self._has_looked and self.publisher.link.is_up and self.queue_sets():
            self._redriven.update(name for name, spec in self.queue_sets().items() if spec.dead_letter.enabled)
            self._has_looked = True
        while self._redriven:
            name = self._redriven.pop()
            spec = self.catalog.current.queue_sets.get(name)
            if spec is None:
                continue
            try:
                dropped = await drop_spent(self.publisher.link, dead_letter_queue(spec.namespace), self._spent)
            except Unavailable:
                self._redriven.add(name)
                raise
            if dropped:
                await failpoints.hit("redrive.dropped")
                _log.info("dead letters dropped after a redrive", namespace=spec.namespace, dropped=dropped)
        return False

    async def _spent(self, ids: list[UUID]) -> set[UUID]:
        return set(ids) - await self.tasks.still_failed(ids)


def main(settings: Settings) -> None:
    """Run the process on uvloop."""
    uvloop.run(run(settings))

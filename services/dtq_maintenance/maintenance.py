"""The maintenance roles of one process, and what they share: a broker connection, the topology and the due work.

The API process hosts them, or a process of their own. Any number of processes may host the roles: no leader is needed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from operator import attrgetter

from prometheus_client import CollectorRegistry

from dtq.broker.publisher import Publisher
from dtq.broker.topology_declarer import RETRY_SECONDS, TopologyDeclarer
from dtq.domain.limits import LOST_AHEAD_SECONDS
from dtq.domain.queue_sets import QueueSets
from dtq.runtime.loops import Ticker, every
from dtq.runtime.metrics import BacklogMetrics, BrokerMetrics, LoopMetrics, MaintenanceMetrics
from dtq.runtime.settings import MaintenanceSettings
from dtq_db.connections import Database
from dtq_db.maintenance import Work
from dtq_maintenance.backlog import BACKLOG_SECONDS, BacklogWatch
from dtq_maintenance.confirms import Confirms
from dtq_maintenance.dead_letters import DROP_SECONDS, DeadLetters
from dtq_maintenance.due import DueCache, Step
from dtq_maintenance.mover import MOVE_SECONDS, Mover
from dtq_maintenance.pruner import PRUNE_SECONDS, Pruner
from dtq_maintenance.reaper import REAP_SECONDS, Reaper
from dtq_maintenance.relay import RELAY_SECONDS, Relay
from dtq_maintenance.scheduler import REPLAN_SECONDS, SCHEDULE_SECONDS, Scheduler
from dtq_maintenance.topology_watch import WATCH_SECONDS, TopologyWatch
from dtq_reconcile.embedded import ensure_default


class Maintenance:
    """The roles and what they share.

    Args:
        queue_sets: shared with the rest of the process, which keeps them fresh.
        loops: counts every step of a role.
        ticker: ends the pauses of the process's loops together.
    """

    def __init__(
        self,
        settings: MaintenanceSettings,
        database: Database,
        *,
        queue_sets: QueueSets,
        registry: CollectorRegistry,
        loops: LoopMetrics,
        ticker: Ticker,
    ) -> None:
        metrics, broker_metrics = MaintenanceMetrics(registry), BrokerMetrics(registry)
        self._settings = settings
        self._database = database
        self._queue_sets = queue_sets
        self._loops = loops
        self._ticker = ticker
        self._relay_wake = asyncio.Event()
        self.declarer = TopologyDeclarer(
            lambda: settings.rmq_url,
            queue_sets=queue_sets,
            on_lost=self._on_lost,
            on_dead_letters_lost=self._on_dead_letters_lost,
            metrics=broker_metrics,
        )
        self.publisher = Publisher(
            lambda: settings.rmq_url,
            declare=self.declarer.declare,
            refusal=self.declarer.refusal,
            metrics=broker_metrics,
            timeout_seconds=settings.publish_timeout_seconds,
        )
        self.confirms = Confirms(database)
        self.due = DueCache(database)
        self.dead_letters = DeadLetters(database, self.publisher, queue_sets=queue_sets)
        self.relay = Relay(
            database,
            self.publisher,
            queue_sets=queue_sets,
            confirmed=self.confirms.add,
            closed=lambda: self.declarer.closed,
            metrics=metrics,
        )
        self.mover = Mover(database)
        self.reaper = Reaper(database, backoff=settings.backoff, metrics=metrics)
        self.pruner = Pruner(database, events_retention_days=settings.events_retention_days, metrics=metrics)
        self.watch = TopologyWatch(database, self.publisher, queue_sets=queue_sets, metrics=metrics)
        self.scheduler = Scheduler(database, metrics=metrics)
        self.backlog = BacklogWatch(database, metrics=BacklogMetrics(registry))

    def start_base(self, parts: asyncio.TaskGroup, stop: asyncio.Event, stop_last: asyncio.Event) -> None:
        """Start what every publishing process needs.

        Args:
            parts: takes the tasks.
            stop: ends the parts that do work of their own.
            stop_last: ends the parts through which others still publish.
        """
        parts.create_task(self.publisher.broker.run(stop_last))
        parts.create_task(self.confirms.run(stop_last, self._ticker))
        self._start(parts, stop, "dead letters", DROP_SECONDS, self.dead_letters.once, wake=self.dead_letters.wake)
        self._start(parts, stop, "declarations", RETRY_SECONDS, self.declarer.retry)

    def start_roles(self, parts: asyncio.TaskGroup, stop: asyncio.Event) -> None:
        """Start the roles; `start_base` must have been called."""
        start = partial(self._start, parts, stop)
        relay = self.due.gated(Work.is_relay_due, self.relay.once)
        start("relay", partial(self.due.pause_seconds, RELAY_SECONDS), relay, wake=self._relay_wake)
        start("mover", MOVE_SECONDS, self.mover.once)
        start("reaper", REAP_SECONDS, self.due.gated(attrgetter("reap"), self.reaper.once))
        start("pruner", PRUNE_SECONDS, self.pruner.once)
        start("topology", WATCH_SECONDS, self.watch.once)
        start("scheduler", SCHEDULE_SECONDS, self.due.gated(attrgetter("fire"), self.scheduler.once))
        start("schedules", REPLAN_SECONDS, self.scheduler.replan)
        start("backlog", BACKLOG_SECONDS, self.backlog.once)

    def redriven(self, queue_sets: Iterable[str]) -> None:
        """Publish tasks of these sets that were redriven, and drop their copies, at once."""
        self.dead_letters.redriven(queue_sets)
        self.due.forget()
        self._relay_wake.set()

    async def follow(self, known: int, read: Callable[[], Awaitable[object]]) -> bool:
        """Have `read` update the queue sets if the catalog is newer than `known`, and declare changes; return False.

        Without any queue set, the one that the environment describes is written first.

        Args:
            known: the revision that the process read last.
            read: reads the catalog and replaces the queue sets.

        Raises:
            Unavailable: database or broker do not answer; the next call tries again.
        """
        if not self._queue_sets:
            await ensure_default(self._database, self._settings)
        elif (await self.due.look()).revision == known:
            return False
        before = dict(self._queue_sets)
        await read()
        if self._queue_sets != before and self.publisher.broker.is_up:
            await self.publisher.declare()
        return False

    def _start(
        self,
        parts: asyncio.TaskGroup,
        stop: asyncio.Event,
        name: str,
        seconds: float | Callable[[], float],
        once: Step,
        *,
        wake: asyncio.Event | None = None,
    ) -> None:
        step = self._loops.instrumented(name, once)
        parts.create_task(every(seconds, step, stop, name=name, ticker=self._ticker, wake=wake))

    async def _on_lost(self, queue_set: str, queue: str) -> None:
        await self.watch.find_lost(queue_set, queue, waiting_seconds=-LOST_AHEAD_SECONDS)

    async def _on_dead_letters_lost(self, queue_set: str) -> None:
        await self.watch.recall_dead_letters(queue_set)

"""The API process: builds its parts and runs them until a signal."""

import asyncio
import time
from functools import partial

import structlog
import uvloop
from prometheus_client import CollectorRegistry

from dtq.runtime.loops import Ticker, every, stop_on_signals
from dtq.runtime.metrics import ApiMetrics, LoopMetrics
from dtq.runtime.probes import probe_app, serve_until, server
from dtq.runtime.settings import ApiSettings, Switch, WhenBrokerDown
from dtq_api.app import Parts, build
from dtq_api.auth.authenticator import REFRESH_SECONDS as AUTH_REFRESH_SECONDS
from dtq_api.auth.authenticator import authenticator_of
from dtq_api.auth.middleware import Admission
from dtq_api.bulk import ITEMS_MAX, BulkEnqueue
from dtq_api.caller_limits import CallerLimits
from dtq_api.catalog import REFRESH_SECONDS, CatalogCache
from dtq_api.enqueue import Enqueuing
from dtq_api.enqueue_route import BodyReader, EnqueueRoute, Front
from dtq_api.group_commit import LARGE_BATCH_MAX, GroupCommit
from dtq_api.payload_checks import PayloadChecks
from dtq_api.scaling import ScalingHints
from dtq_api.server_certificate import REFRESH_SECONDS as CERTIFICATE_REFRESH_SECONDS
from dtq_api.server_certificate import ServerCertificate
from dtq_db.connections import Database
from dtq_db.tasks import TaskStore
from dtq_maintenance.health import Health
from dtq_maintenance.maintenance import Maintenance

GRACE_SECONDS = 10
"""How long requests under way may take at shutdown, in seconds."""

_log = structlog.get_logger(__name__)


async def run(settings: ApiSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    async with Database(lambda: settings.dsn, name="dtq-api") as database:
        api = Api(settings, database)
        await api.run(stop_on_signals())


class Api:
    """The parts of the API process and their lifetime."""

    def __init__(self, settings: ApiSettings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self.registry = CollectorRegistry()
        metrics = ApiMetrics(self.registry)
        self._loops = LoopMetrics(self.registry)
        self._ticker = Ticker()
        self.catalog = CatalogCache(database)
        self.checks = PayloadChecks()
        self.maintenance = Maintenance(
            settings,
            database,
            queue_sets=self.catalog.queue_sets,
            registry=self.registry,
            loops=self._loops,
            ticker=self._ticker,
        )
        commits = partial(
            GroupCommit,
            database,
            self.maintenance.publisher,
            queue_sets=self.catalog.queue_sets,
            accept_when_down=settings.enqueue_when_broker_down is WhenBrokerDown.ACCEPT,
            metrics=metrics,
            confirmed=self.maintenance.confirms.add,
        )
        self.group_commit = commits()
        self.large_group_commit = commits(name="enqueue-large", batches=1, batch_max=LARGE_BATCH_MAX)
        self.bulk_commit = commits(name="bulk", batch_max=ITEMS_MAX)
        self.tasks = TaskStore(database)
        self.authenticator = authenticator_of(settings, metrics)
        self._certificate = ServerCertificate.of(settings)
        self.limits = CallerLimits(
            requests_per_second=settings.caller_requests_per_second,
            requests=settings.caller_requests_at_once,
            lists=settings.caller_lists,
            clock=time.monotonic,
        )
        self.health = Health(
            database, self.maintenance.publisher, self.maintenance.declarer, queue_sets=self.catalog.queue_sets
        )
        admission, body_reader = Admission(self.authenticator, self.limits), BodyReader()
        enqueuing = Enqueuing(
            catalog=self.catalog,
            checks=self.checks,
            group_commit=self.group_commit,
            large_group_commit=self.large_group_commit,
            trouble=self.maintenance.declarer.trouble,
        )
        bulk = BulkEnqueue(
            enqueuing,
            self.bulk_commit,
            database.dedicated("bulk-all"),
            metrics=metrics,
            added=self.maintenance.due.forget,
        )
        enqueue_route = EnqueueRoute(admission, enqueuing, body_reader, metrics)
        self.app = build(
            Parts(
                catalog=self.catalog,
                tasks=self.tasks,
                scaling=ScalingHints(
                    database, queue_sets=self.catalog.queue_sets, newer=lambda: self.catalog.current.newer
                ),
                metrics=metrics,
                registry=self.registry if settings.metrics_port is None else None,
                health=self.health.everything,
                ready=self.health.ready,
                after_redrive=self.maintenance.redriven,
                authenticator=self.authenticator,
                limits=self.limits,
                admission=admission,
                bodies=body_reader,
                enqueue_route=enqueue_route,
                bulk=bulk,
            )
        )
        self.front = Front(self.app, enqueue_route)

    async def run(self, stop: asyncio.Event) -> None:
        """Run every part until `stop`; then end the parts in the order of their dependencies."""
        stop_parts = asyncio.Event()
        tls = None if self._certificate is None else self._certificate.context
        serving = server(self.front, self._settings.http_port, grace_seconds=GRACE_SECONDS, tls=tls)
        async with asyncio.TaskGroup() as parts:
            refresh = self._loops.instrumented("catalog", self._refresh)
            start = partial(every, stop=stop_parts, ticker=self._ticker)
            parts.create_task(start(REFRESH_SECONDS, refresh, name="catalog"))
            parts.create_task(start(AUTH_REFRESH_SECONDS, self.authenticator.refresh, name="auth"))
            if self._certificate is not None:
                parts.create_task(
                    start(CERTIFICATE_REFRESH_SECONDS, self._certificate.refresh, name="server certificate")
                )
            self.maintenance.start_base(parts, stop, stop_parts)
            if self._settings.api_maintenance is Switch.ON:
                self.maintenance.start_roles(parts, stop)
            if self._settings.metrics_port is not None:
                metrics_app = probe_app(self.registry, ready=self.health.ready)
                metrics_server = server(metrics_app, self._settings.metrics_port, grace_seconds=1)
                parts.create_task(serve_until(stop_parts, metrics_server))
            _log.info("api started", address="{}:{}".format(*self._settings.http_port))
            await serve_until(stop, serving)
            await self.group_commit.idle()
            await self.large_group_commit.idle()
            await self.bulk_commit.idle()
            stop_parts.set()
        await self.checks.close()
        await self.authenticator.close()
        _log.info("api stopped")

    async def _refresh(self) -> bool:
        followed = await self.maintenance.follow(self.catalog.current.revision, self.catalog.refresh)
        self.checks.keep(self.catalog.current.types)
        return followed


def main(settings: ApiSettings) -> None:
    """Run the process on uvloop."""
    uvloop.run(run(settings))

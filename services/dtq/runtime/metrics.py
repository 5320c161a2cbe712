"""Metrics: every name, with the prefix `dq_`; each process has a registry of its own.

A label never holds an id, a payload, an error text or an undeclared type: the number of label values stays small.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dtq.domain.errors import Unavailable
from dtq.domain.states import Outcome, TaskStatus

UNKNOWN: Final = "unknown"
"""Label value for a type or queue that is not declared."""
_LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)


class BrokerMetrics:
    """What every process that talks to RabbitMQ counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.publishes = Counter(
            "dq_publish_total",
            "Messages handed to the broker, by result (ok|returned|refused|timeout|lost).",
            ["result"],
            registry=registry,
        )
        _begin(self.publishes, "ok", "returned", "refused", "timeout", "lost")
        self.connected = Gauge(
            "dq_broker_connected",
            "1 while the connection of that purpose is usable.",
            ["purpose"],
            registry=registry,
        )
        self.reconnects = Counter(
            "dq_broker_reconnects_total",
            "Connections opened after one was lost.",
            ["purpose"],
            registry=registry,
        )
        self.repairs = Counter(
            "dq_topology_repairs_total",
            "Exchanges, queues and bindings that were missing and declared again.",
            registry=registry,
        )
        self.declared = Gauge(
            "dq_queue_set_declared",
            "1 while the queue set's topology is declared in RabbitMQ, 0 while RabbitMQ refuses it.",
            ["queue_set"],
            registry=registry,
        )


def _begin(counter: Counter, *labels: str) -> Counter:
    """Return a counter whose label values exist from the start: `increase` misses a series that begins at 1."""
    for value in labels:
        counter.labels(value)
    return counter


def _dead_lettered(registry: CollectorRegistry) -> Counter:
    return Counter(
        "dq_dead_letters_confirmed_total",
        "Copies of failed tasks that the broker confirmed to hold in the dead letter queue.",
        registry=registry,
    )


class LoopMetrics:
    """When each loop of a process last completed a step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            "dq_loop_last_success_timestamp_seconds",
            "When a loop last ended a step well: relay, reaper, pruner, topology, scheduler, catalog, backlog, ...",
            ["loop"],
            registry=registry,
        )
        self.failures = Counter(
            "dq_loop_failures_total",
            "Steps of a loop that Postgres or RabbitMQ did not answer.",
            ["loop"],
            registry=registry,
        )

    def instrumented(
        self, name: str, once: Callable[[], Awaitable[bool | None]]
    ) -> Callable[[], Awaitable[bool | None]]:
        """Return the same step, with a record of each completion."""

        async def step() -> bool | None:
            try:
                more = await once()
            except Unavailable:
                self.failures.labels(name).inc()
                raise
            self.last_success.labels(name).set_to_current_time()
            return more

        return step


class BacklogMetrics:
    """The backlog in Postgres: the same values wherever maintenance runs, so take the maximum, never the sum."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.waiting = Gauge(
            "dq_queue_waiting_tasks",
            "Tasks that are due and wait for a worker, counted up to 10,000 over all queues.",
            ["queue_set", "queue"],
            registry=registry,
        )
        self.oldest = Gauge(
            "dq_queue_oldest_seconds",
            "How long the oldest of them has been due.",
            ["queue_set", "queue"],
            registry=registry,
        )
        self.outbox = Gauge(
            "dq_outbox_tasks", "Due tasks that nobody has published yet, counted up to 10,000.", registry=registry
        )
        self.outbox_lag = Gauge(
            "dq_outbox_lag_seconds", "How long the oldest of them has been overdue to the relay.", registry=registry
        )
        self.blocked = Gauge(
            "dq_tasks_blocked",
            "Tasks that wait for room under a limit of their type, counted up to 10,000.",
            registry=registry,
        )
        self.failed = Gauge(
            "dq_tasks_failed", "FAILED tasks, which a person may redrive, counted up to 10,000.", registry=registry
        )
        self.undelivered = Gauge(
            "dq_dead_letters_due",
            "FAILED tasks whose copy in the dead letter queue is not confirmed, counted up to 10,000.",
            registry=registry,
        )
        self.workers = Gauge(
            "dq_workers",
            "Workers by the state of their lease (alive|expired); expired ones still hold tasks.",
            ["state"],
            registry=registry,
        )


class MaintenanceMetrics:
    """What the maintenance roles count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.relayed = Counter(
            "dq_relay_published_total",
            "Tasks published by the relay: scheduled, retried or left over.",
            registry=registry,
        )
        self.lost = Counter("dq_relay_lost_total", "Published tasks that the broker no longer held.", registry=registry)
        self.reaped = Counter(
            "dq_reaped_total",
            "Tasks taken back from workers whose lease expired, by the status they have now.",
            ["status"],
            registry=registry,
        )
        _begin(self.reaped, TaskStatus.ENQUEUED, TaskStatus.FAILED, TaskStatus.CANCELLED)
        self.dead_lettered = _dead_lettered(registry)
        self.pruned = Counter("dq_pruned_total", "Finished tasks dropped after their retention.", registry=registry)
        self.fired = Counter("dq_schedule_fired_total", "Tasks enqueued by a cron entry.", ["type"], registry=registry)


class ApiMetrics:
    """What the API counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.enqueues = Counter(
            "dq_enqueue_total",
            "Enqueue requests by type, queue and status (ok|error).",
            ["type", "queue", "status"],
            registry=registry,
        )
        self.enqueue_seconds = Histogram(
            "dq_enqueue_latency_seconds",
            "Time to answer an enqueue request.",
            ["type", "queue"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.batch = Histogram(
            "dq_enqueue_batch_tasks",
            "Tasks stored by one statement.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=registry,
        )
        self.enqueues.labels(UNKNOWN, UNKNOWN, "error")
        self.responses = Counter(
            "dq_http_responses_total", "Answers by route and code.", ["route", "code"], registry=registry
        )
        self.replayed = Counter(
            "dq_enqueue_replayed_total",
            "Enqueue requests answered with the task of an earlier request, counted as ok too.",
            ["type"],
            registry=registry,
        )
        self.cancelled = Counter("dq_tasks_cancelled_total", "Tasks that ended CANCELLED.", registry=registry)
        self.redriven = Counter("dq_redriven_total", "Failed tasks that a person sent again.", registry=registry)
        self.refused = Counter(
            "dq_auth_refused_total",
            "Requests refused for their credential, by reason (missing|invalid).",
            ["reason"],
            registry=registry,
        )
        _begin(self.refused, "missing", "invalid")
        self.reviews = Counter(
            "dq_token_reviews_total",
            "ServiceAccount tokens that the Kubernetes API was asked about, by result (good|bad|unavailable).",
            ["result"],
            registry=registry,
        )
        _begin(self.reviews, "good", "bad", "unavailable")


class WorkerMetrics:
    """What a worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deliveries = Counter(
            "dq_deliveries_total",
            "Deliveries by verdict (claimed|dropped|undecodable|handed_on).",
            ["verdict"],
            registry=registry,
        )
        _begin(self.deliveries, "claimed", "dropped", "undecodable")
        self.finished = Counter(
            "dq_tasks_finished_total",
            "Attempts that ended, by type and outcome.",
            ["type", "outcome"],
            registry=registry,
        )
        self.run_seconds = Histogram(
            "dq_task_run_seconds", "How long handlers ran.", ["type"], buckets=_RUN, registry=registry
        )
        self.attempts = Histogram(
            "dq_task_attempts",
            "Attempts that a task had taken when it came to its end, by type.",
            ["type"],
            buckets=(1, 2, 3, 5, 10, 20),
            registry=registry,
        )
        self.released = Counter(
            "dq_released_total", "Claims given back because their handler never started.", registry=registry
        )
        self.retries = Counter(
            "dq_retries_total", "Attempts that will be made again, by type.", ["type"], registry=registry
        )
        self.dead_letters = Counter(
            "dq_dead_letters_total", "Tasks that failed for good, by type.", ["type"], registry=registry
        )
        self.dead_lettered = _dead_lettered(registry)
        self.cancelled = Counter("dq_tasks_cancelled_total", "Tasks that ended CANCELLED.", registry=registry)
        self.running = Gauge("dq_tasks_running", "Handlers running now.", registry=registry)
        self.leases_lost = Counter(
            "dq_leases_lost_total", "Leases that could not be renewed in time.", registry=registry
        )
        self.stale = Counter(
            "dq_stale_finishes_total",
            "Results dropped because the task had gone to another worker.",
            registry=registry,
        )
        self.lag = Gauge(
            "dq_event_loop_lag_seconds",
            "How late the event loop woke up last; async handlers that block raise it.",
            registry=registry,
        )

    def expect(self, types: Iterable[str]) -> None:
        """Initialise the counters of the types that this worker has handlers for."""
        for type_ in types:
            for outcome in Outcome:
                self.finished.labels(type_, outcome)
            for metric in (self.retries, self.dead_letters, self.run_seconds, self.attempts):
                metric.labels(type_)


class OperatorMetrics:
    """What the operator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconciles = Counter(
            "dq_operator_reconcile_total",
            "Reconciles by kind and result (ok|refused|waiting|conflict|gone).",
            ["kind", "result"],
            registry=registry,
        )
        self.reconcile_seconds = Histogram(
            "dq_operator_reconcile_seconds",
            "How long one reconcile took.",
            ["kind"],
            buckets=_LATENCY,
            registry=registry,
        )
        self.depth = Gauge("dq_operator_workqueue_depth", "Keys that are due or under way.", registry=registry)
        self.oldest = Gauge(
            "dq_operator_workqueue_oldest_seconds", "How long the oldest due key has waited.", registry=registry
        )
        self.objects = Gauge(
            "dq_operator_objects", "Objects by kind and whether they are ready.", ["kind", "ready"], registry=registry
        )
        self.drift = Counter(
            "dq_operator_drift_repairs_total", "Objects that had changed behind our back.", ["kind"], registry=registry
        )
        _begin(self.drift, "TaskType", "QueueSet")
        self.backend_up = Gauge("dq_operator_backend_up", "1 while a backend answers.", ["backend"], registry=registry)
        self.last_sweep = Gauge(
            "dq_operator_last_sweep_timestamp_seconds", "When a sweep last came to its end.", registry=registry
        )
        self.orphans = Gauge(
            "dq_operator_orphans", "Claims whose object is gone and that were not let go of yet.", registry=registry
        )
        self.requests = Counter(
            "dq_operator_api_requests_total",
            "Requests to the Kubernetes API besides kopf's watches.",
            registry=registry,
        )
        self.status_writes = Counter(
            "dq_operator_status_writes_total", "Statuses written, by kind.", ["kind"], registry=registry
        )
        self.unserved = Gauge(
            "dq_operator_task_types_unserved",
            "Active task types that no live worker runs, by reason (QueueNotConsumed|NoHandler).",
            ["reason"],
            registry=registry,
        )
        for reason in ("QueueNotConsumed", "NoHandler"):
            self.unserved.labels(reason)
        self.desired_replicas = Gauge(
            "dq_queue_desired_replicas", "Workers that a queue wants.", ["queue_set", "queue"], registry=registry
        )
        self.backlog = Gauge(
            "dq_queue_tasks",
            "Tasks of a queue by state: ready (due, and claimed by no worker) or running.",
            ["queue_set", "queue", "state"],
            registry=registry,
        )

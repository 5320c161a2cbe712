"""Metrics: every name, with the prefix `dq_`; each process has a registry of its own.

A label never holds an id, a payload, an error text or an undeclared type: the number of label values stays small.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dtq.domain.errors import Unavailable
from dtq.domain.states import Outcome, TaskStatus

UNKNOWN: Final = "unknown"
"""Label value for a type or queue that is not declared."""
_LATENCY: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_RUN: Final = (0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0, 7200.0)
_DEAD_LETTERED: Final = (
    "dq_dead_letters_confirmed_total",
    "Copies of failed tasks that the broker confirmed for the dead letter queue.",
)


M = TypeVar("M", Counter, Histogram)


class Children(dict[tuple[str, ...], M]):
    """A metric's children by the values of their labels, for hot paths: a look-up costs a tenth of `labels`."""

    def __init__(self, metric: M) -> None:
        super().__init__()
        self._labels: Callable[..., M] = metric.labels

    def __missing__(self, values: tuple[str, ...]) -> M:
        """Create a child the first time."""
        child = self[values] = self._labels(*values)
        return child


class _Metrics:
    """Metrics of one registry: name, meaning and labels of each.

    The series in `begin` exist from the start: `increase` misses a series that begins at 1.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def _counter(self, name: str, meaning: str, *labels: str, begin: Iterable[str] = ()) -> Counter:
        counter = Counter(name, meaning, labels, registry=self._registry)
        for value in begin:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, meaning: str, *labels: str, begin: Iterable[str] = ()) -> Gauge:
        gauge = Gauge(name, meaning, labels, registry=self._registry)
        for value in begin:
            gauge.labels(value)
        return gauge

    def _histogram(self, name: str, meaning: str, *labels: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, meaning, labels, buckets=buckets, registry=self._registry)


class BrokerMetrics(_Metrics):
    """What every process that talks to RabbitMQ counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.publishes = self._counter(
            "dq_publish_total",
            "Messages published, by result (ok|returned|refused|timeout|lost).",
            "result",
            begin=("ok", "returned", "refused", "timeout", "lost"),
        )
        self.connected = self._gauge(
            "dq_broker_connected", "1 while the connection for that purpose is open.", "purpose"
        )
        self.reconnects = self._counter("dq_broker_reconnects_total", "Attempts to reconnect to RabbitMQ.", "purpose")
        self.repairs = self._counter(
            "dq_topology_repairs_total", "Exchanges, queues and bindings that were missing and declared again."
        )
        self.declared = self._gauge(
            "dq_queue_set_declared",
            "1 while the queue set's topology is declared in RabbitMQ, 0 while RabbitMQ refuses it.",
            "queue_set",
        )


class LoopMetrics(_Metrics):
    """When each loop of a process last completed a step."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.last_success = self._gauge(
            "dq_loop_last_success_timestamp_seconds",
            "When a step of a loop last succeeded: relay, reaper, pruner, topology, scheduler, catalog, backlog, ...",
            "loop",
        )
        self.bugs = self._counter("dq_loop_bugs_total", "Steps of a loop that ended with an unexpected error.", "loop")
        self.failures = self._counter(
            "dq_loop_failures_total", "Steps of a loop that failed because Postgres or RabbitMQ did not answer.", "loop"
        )

    def instrumented(
        self, name: str, once: Callable[[], Awaitable[bool | None]]
    ) -> Callable[[], Awaitable[bool | None]]:
        """Return the same step, with a record of each completion."""
        self.bugs.labels(name)  # the first bug must be an increase; otherwise no alert would fire

        async def step() -> bool | None:
            try:
                more = await once()
            except Unavailable:
                self.failures.labels(name).inc()
                raise
            except Exception:
                self.bugs.labels(name).inc()
                raise
            self.last_success.labels(name).set_to_current_time()
            return more

        return step


class BacklogMetrics(_Metrics):
    """The backlog in Postgres: the same values wherever maintenance runs, so take the maximum, never the sum."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.waiting = self._gauge(
            "dq_queue_waiting_tasks",
            "Tasks that are due and wait for a worker, counted up to 10,000 over all queues.",
            "queue_set",
            "queue",
        )
        self.oldest = self._gauge(
            "dq_queue_oldest_seconds", "How long the oldest due task has waited.", "queue_set", "queue"
        )
        self.outbox = self._gauge("dq_outbox_tasks", "Due tasks that are not published yet, counted up to 10,000.")
        self.outbox_lag = self._gauge(
            "dq_outbox_lag_seconds", "How long the oldest unpublished task has been due for the relay."
        )
        self.blocked = self._gauge(
            "dq_tasks_blocked", "Tasks that wait because a limit of their type is reached, counted up to 10,000."
        )
        self.failed = self._gauge("dq_tasks_failed", "FAILED tasks, which can be redriven, counted up to 10,000.")
        self.undelivered = self._gauge(
            "dq_dead_letters_due",
            "FAILED tasks whose copy in the dead letter queue is not confirmed, counted up to 10,000.",
        )
        self.workers = self._gauge(
            "dq_workers",
            "Workers by the state of their lease (alive|expired); expired workers still hold tasks.",
            "state",
        )


class MaintenanceMetrics(_Metrics):
    """What the maintenance roles count."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.relayed = self._counter(
            "dq_relay_published_total", "Tasks published by the relay: scheduled, retried, or not confirmed before."
        )
        self.lost = self._counter("dq_relay_lost_total", "Published tasks whose message the broker lost.")
        self.reaped = self._counter(
            "dq_reaped_total",
            "Tasks reaped from workers whose lease expired, by their new status.",
            "status",
            begin=(TaskStatus.ENQUEUED, TaskStatus.FAILED, TaskStatus.CANCELLED),
        )
        self.dead_lettered = self._counter(*_DEAD_LETTERED)
        self.pruned = self._counter("dq_pruned_total", "Finished tasks deleted after their retention.")
        self.fired = self._counter("dq_schedule_fired_total", "Tasks enqueued by a schedule.", "type")


class ApiMetrics(_Metrics):
    """What the API counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.enqueues = self._counter(
            "dq_enqueue_total", "Enqueue requests by type, queue and status (ok|error).", "type", "queue", "status"
        )
        self.enqueue_seconds = self._histogram(
            "dq_enqueue_latency_seconds", "Latency of an enqueue request.", "type", "queue", buckets=_LATENCY
        )
        self.batch = self._histogram(
            "dq_enqueue_batch_tasks", "Tasks stored per INSERT statement.", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
        )
        self.enqueues.labels(UNKNOWN, UNKNOWN, "error")
        self.responses = self._counter("dq_http_responses_total", "HTTP responses by route and code.", "route", "code")
        self.replayed = self._counter(
            "dq_enqueue_replayed_total",
            "Enqueue requests answered with the task of an earlier request; also counted as ok.",
            "type",
        )
        self.cancelled = self._counter("dq_tasks_cancelled_total", "Tasks that ended CANCELLED.")
        self.redriven = self._counter("dq_redriven_total", "Failed tasks that were redriven.")
        self.refused = self._counter(
            "dq_auth_refused_total",
            "Requests refused because of their token, by reason (missing|invalid).",
            "reason",
            begin=("missing", "invalid"),
        )
        self.reviews = self._counter(
            "dq_token_reviews_total",
            "ServiceAccount tokens that were not cached, by result (good|bad|forged|unavailable).",
            "result",
            begin=("good", "bad", "forged", "unavailable"),
        )


class WorkerMetrics(_Metrics):
    """What a worker counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.deliveries = self._counter(
            "dq_deliveries_total",
            "Deliveries by verdict (claimed|dropped|undecodable|handed_on).",
            "verdict",
            begin=("claimed", "dropped", "undecodable"),
        )
        self.finished = self._counter(
            "dq_tasks_finished_total", "Attempts that ended, by type and outcome.", "type", "outcome"
        )
        self.run_seconds = self._histogram("dq_task_run_seconds", "Run time of handlers.", "type", buckets=_RUN)
        self.attempts = self._histogram(
            "dq_task_attempts",
            "Attempts of a task until it ended, by type.",
            "type",
            buckets=(1, 2, 3, 5, 10, 20),
        )
        self.released = self._counter("dq_released_total", "Claims released because their handler never started.")
        self.retries = self._counter("dq_retries_total", "Attempts that will be retried, by type.", "type")
        self.dead_letters = self._counter("dq_dead_letters_total", "Tasks that ended FAILED, by type.", "type")
        self.dead_lettered = self._counter(*_DEAD_LETTERED)
        self.cancelled = self._counter("dq_tasks_cancelled_total", "Tasks that ended CANCELLED.")
        self.running = self._gauge("dq_tasks_running", "Running handlers.")
        self.leases_lost = self._counter("dq_leases_lost_total", "Leases that could not be renewed in time.")
        self.stale = self._counter(
            "dq_stale_finishes_total", "Results discarded because the worker no longer held the task."
        )
        self.lag = self._gauge(
            "dq_event_loop_lag_seconds", "How late the event loop last woke up; async handlers that block increase it."
        )

    def expect(self, types: Iterable[str]) -> None:
        """Initialise the counters of the types that this worker has handlers for."""
        for type_ in types:
            for outcome in Outcome:
                self.finished.labels(type_, outcome)
            for metric in (self.retries, self.dead_letters, self.run_seconds, self.attempts):
                metric.labels(type_)


class OperatorMetrics(_Metrics):
    """What the operator counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        super().__init__(registry)
        self.reconciles = self._counter(
            "dq_operator_reconcile_total",
            "Reconciles by kind and result (ok|refused|waiting|conflict|gone).",
            "kind",
            "result",
        )
        self.reconcile_seconds = self._histogram(
            "dq_operator_reconcile_seconds", "Duration of a reconcile.", "kind", buckets=_LATENCY
        )
        self.depth = self._gauge("dq_operator_workqueue_depth", "Objects that are due or being reconciled.")
        self.oldest = self._gauge("dq_operator_workqueue_oldest_seconds", "How long the oldest due object has waited.")
        self.objects = self._gauge(
            "dq_operator_objects", "Objects by kind and whether they are ready.", "kind", "ready"
        )
        self.drift = self._counter(
            "dq_operator_drift_repairs_total",
            "Objects whose rows or topology were changed outside the operator.",
            "kind",
            begin=("TaskType", "QueueSet"),
        )
        self.backend_up = self._gauge("dq_operator_backend_up", "1 while a backend answers.", "backend")
        self.last_sweep = self._gauge("dq_operator_last_sweep_timestamp_seconds", "When a sweep last ended.")
        self.orphans = self._gauge("dq_operator_orphans", "Claims whose object is gone and that are not yet released.")
        self.requests = self._counter(
            "dq_operator_api_requests_total", "Requests to the Kubernetes API, without kopf's watches."
        )
        self.status_writes = self._counter("dq_operator_status_writes_total", "Statuses written, by kind.", "kind")
        self.unserved = self._gauge(
            "dq_operator_task_types_unserved",
            "Active task types that no live worker runs, by reason (QueueNotConsumed|NoHandler).",
            "reason",
            begin=("QueueNotConsumed", "NoHandler"),
        )
        self.desired_replicas = self._gauge(
            "dq_queue_desired_replicas", "Desired number of workers of a queue.", "queue_set", "queue"
        )
        self.backlog = self._gauge(
            "dq_queue_tasks",
            "Tasks of a queue by state: ready (due, and claimed by no worker) or running.",
            "queue_set",
            "queue",
            "state",
        )

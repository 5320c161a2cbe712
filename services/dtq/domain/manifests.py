"""TaskType and QueueSet as people declare them: the one model of both custom resources.

The models define shape, defaults and bounds. The CRDs are generated from these models, and `dtq apply` and the operator
parse with them. Values are not coerced: `"TRUE"` is not a boolean and `"5"` is not a number.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from dtq.domain import limits
from dtq.domain.backoff import Backoff, Strategy
from dtq.domain.names import KeyPath, ObjectName, Prefix, QueueName, TypeName, WorkQueueName

API_VERSION: Final = "dtq.dev/v1alpha1"
GROUP, VERSION = API_VERSION.split("/")

DelaySeconds = Annotated[int, Field(ge=1, le=limits.DELAY_SECONDS_MAX)]


def _distinct(what: str, values: list[Any]) -> None:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{what} names {twice[0]!r} twice: keep one")


class _Model(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        strict=True,
        frozen=True,
        use_attribute_docstrings=True,
    )


class BackoffSpec(_Model):
    """How long a failed task waits before its next attempt."""

    strategy: Annotated[Strategy, Field(strict=False)] = Strategy.LIST
    """How the delay is computed: List, Fixed or Exponential."""
    delays_seconds: list[DelaySeconds] | None = Field(default=None, min_length=1, max_length=limits.DELAYS_MAX)
    """List: the delay after attempt 1, 2, ...; the last one repeats."""
    delay_seconds: DelaySeconds | None = None
    """Fixed: the delay after every attempt."""
    base_seconds: DelaySeconds | None = None
    """Exponential: the delay after attempt 1."""
    factor: Annotated[int, Field(ge=1, le=limits.BACKOFF_FACTOR_MAX)] | None = None
    """Exponential: the factor from each delay to the next."""
    max_seconds: DelaySeconds | None = None
    """Exponential: the longest delay."""
    jitter_percent: int = Field(default=0, ge=0, le=100)
    """The largest random reduction of a delay, in percent."""

    @model_validator(mode="after")
    def _fields_fit_the_strategy(self) -> Self:
        allowed = {
            Strategy.LIST: {"delays_seconds"},
            Strategy.FIXED: {"delay_seconds"},
            Strategy.EXPONENTIAL: {"base_seconds", "factor", "max_seconds"},
        }[self.strategy]
        given = self.model_fields_set - {"strategy", "jitter_percent"}
        if extra := sorted(to_camel(name) for name in given - allowed if getattr(self, name) is not None):
            raise ValueError(f"{', '.join(extra)} does not belong to strategy {self.strategy}: remove it")
        if (self.max_seconds or Backoff().max_seconds) < (self.base_seconds or Backoff().base_seconds):
            raise ValueError("maxSeconds is below baseSeconds: raise maxSeconds")
        return self


class Retention(_Model):
    """How long finished tasks are kept; 0 means: until the next pruning."""

    succeeded_seconds: int = Field(default=604_800, ge=0, le=limits.RETENTION_SECONDS_MAX)
    """For SUCCEEDED and CANCELLED tasks."""
    failed_seconds: int = Field(default=2_592_000, ge=0, le=limits.RETENTION_SECONDS_MAX)
    """For FAILED tasks."""


class Concurrency(_Model):
    """How many tasks of the type run at once, in the whole cluster."""

    limit: int = Field(ge=1, le=limits.CONCURRENCY_MAX)
    """The most tasks that run at once, over all workers."""
    key: KeyPath | None = None
    """A payload field such as customer.id: the limit applies to each of its values."""


class RateLimit(_Model):
    """How many tasks of the type start in a stretch of time, in the whole cluster: a token bucket."""

    tasks: int = Field(ge=1, le=limits.RATE_TASKS_MAX)
    """The most attempts that start in perSeconds."""
    per_seconds: int = Field(default=1, ge=1, le=limits.RATE_SECONDS_MAX)
    """The interval of the limit."""
    burst: Annotated[int, Field(ge=1, le=limits.RATE_TASKS_MAX)] | None = None
    """The most attempts that start at once after an idle period; defaults to tasks."""


class ObjectRef(_Model):
    """The name of another object in the same namespace."""

    name: ObjectName
    """The object's name."""


class Schedule(_Model):
    """A cron entry: enqueues a task with this payload whenever the expression matches."""

    name: QueueName
    """Unique within the task type."""
    cron: str = Field(min_length=6, max_length=100)
    """Five fields: minute hour day month weekday; or a name such as @daily."""
    timezone: str = Field(default="UTC", max_length=64)
    """An IANA name such as Europe/Berlin."""
    payload: dict[str, Any] = Field(default_factory=dict)
    """The payload of each enqueued task."""


class TaskTypeDeletionPolicy(StrEnum):
    """What becomes of the row when the TaskType is deleted."""

    DEACTIVATE = "Deactivate"
    RETAIN = "Retain"
    DELETE = "Delete"


class TaskTypeSpec(_Model):
    """A kind of work: the queue of its tasks, and how they run."""

    queue_set_ref: ObjectRef = ObjectRef(name="default")
    """The QueueSet whose queues hold tasks of this type."""
    queue: QueueName = "default"
    """The default queue; a task may name another queue of the QueueSet."""
    active: bool = True
    """Whether new tasks are accepted; accepted tasks run in any case."""
    max_attempts: int = Field(default=5, ge=1, le=limits.ATTEMPTS_MAX)
    """The most attempts of a task; a task may set its own number."""
    timeout_seconds: int = Field(default=300, ge=1, le=limits.TIMEOUT_SECONDS_MAX)
    """The timeout of an attempt."""
    backoff: BackoffSpec | None = None
    """The delay between attempts; defaults to the settings of the worker."""
    payload_schema: dict[str, Any] | None = None
    """JSON Schema 2020-12 that every payload must satisfy; at most 64 KiB, no remote $ref."""
    max_payload_bytes: int = Field(default=limits.PAYLOAD_BYTES_DEFAULT, ge=1, le=limits.PAYLOAD_BYTES_MAX)
    """The largest payload, in bytes of JSON text."""
    concurrency: Concurrency | None = None
    """How many tasks run at once in the whole cluster; without it, only worker slots limit them."""
    rate_limit: RateLimit | None = None
    """How many attempts start per interval."""
    retention: Retention = Retention()
    """How long finished tasks are kept."""
    schedule: list[Schedule] = Field(default_factory=list, max_length=limits.SCHEDULES_MAX)
    """The schedules that enqueue tasks of this type."""
    deletion_policy: Annotated[TaskTypeDeletionPolicy, Field(strict=False)] = TaskTypeDeletionPolicy.DEACTIVATE
    """Deactivate refuses new tasks, Retain keeps the row, Delete deletes it once no task refers to it."""

    @model_validator(mode="after")
    def _schedules_have_distinct_names(self) -> Self:
        _distinct("schedule", [entry.name for entry in self.schedule])
        return self


class QueueType(StrEnum):
    """How RabbitMQ stores a queue."""

    QUORUM = "Quorum"
    CLASSIC = "Classic"


class ScalingMode(StrEnum):
    """Who acts on a scaling hint."""

    HINTS = "Hints"
    OPERATOR = "Operator"
    DISABLED = "Disabled"


class Scaling(_Model):
    """How many workers a queue wants."""

    mode: Annotated[ScalingMode, Field(strict=False)] = ScalingMode.HINTS
    """Hints publishes the number, Operator also scales targetRef, Disabled does neither."""
    min_replicas: int = Field(default=0, ge=0, le=limits.REPLICAS_MAX)
    """The fewest replicas; with 0, an idle queue has no worker and its next task waits for a pod."""
    max_replicas: int = Field(default=10, ge=0, le=limits.REPLICAS_MAX)
    """The most replicas."""
    target_backlog_per_replica: int = Field(default=20, ge=1, le=limits.BACKLOG_PER_REPLICA_MAX)
    """Ready and running tasks per replica."""
    cooldown_seconds: int = Field(default=300, ge=0, le=86_400)
    """How long the backlog must stay lower before replicas are removed."""
    target_ref: ObjectRef | None = None
    """The Deployment that mode Operator scales, in the same namespace."""

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is above maxReplicas: lower minReplicas")
        if self.mode is ScalingMode.OPERATOR and self.target_ref is None:
            raise ValueError("mode Operator needs targetRef: name the Deployment")
        return self


class QueueSpec(_Model):
    """A queue: a routing key of its QueueSet."""

    name: WorkQueueName
    """The routing key."""
    type: Annotated[QueueType, Field(strict=False)] = QueueType.QUORUM
    """The type in RabbitMQ: a Quorum queue survives the loss of a node; immutable."""
    max_length: Annotated[int, Field(ge=1, le=limits.MAX_LENGTH_MAX)] | None = None
    """The most messages; a full queue refuses messages, and its retries wait in Postgres. Immutable."""
    scaling: Scaling = Scaling()
    """The scaling of the workers of this queue."""


class Retry(_Model):
    """The retry ladder: delays that wait in the broker; any other, and those of a bounded queue, wait in Postgres."""

    delays_seconds: list[DelaySeconds] = Field(
        default=[5, 30, 120, 600, 3600], min_length=1, max_length=limits.RETRY_DELAYS_MAX
    )
    """The retry delays; each has a durable queue per queue."""

    @model_validator(mode="after")
    def _delays_are_distinct(self) -> Self:
        _distinct("delaysSeconds", self.delays_seconds)
        return self


class DeadLetter(_Model):
    """What becomes of a copy of each task that failed permanently."""

    enabled: bool = True
    """Whether a copy of each failed task goes to the dead letter queue."""


class RemovalPolicy(StrEnum):
    """What becomes of the tasks that wait in a queue which is taken out of its set."""

    REFUSE = "Refuse"
    MOVE_TO = "MoveTo"


class OnRemoval(_Model):
    """What happens when a queue is taken out of the set while tasks wait in it."""

    policy: Annotated[RemovalPolicy, Field(strict=False)] = RemovalPolicy.REFUSE
    """Refuse keeps a queue while tasks wait in it, MoveTo moves the tasks to another queue."""
    queue: QueueName | None = None
    """MoveTo: the queue of this QueueSet that receives the tasks."""

    @model_validator(mode="after")
    def _queue_fits_the_policy(self) -> Self:
        if self.policy is RemovalPolicy.MOVE_TO and self.queue is None:
            raise ValueError("policy MoveTo needs queue: name the queue that receives the tasks")
        if self.policy is RemovalPolicy.REFUSE and self.queue is not None:
            raise ValueError("queue belongs to policy MoveTo: remove it")
        return self


class QueueSetDeletionPolicy(StrEnum):
    """What becomes of the topology when the QueueSet is deleted."""

    RETAIN = "Retain"
    DELETE_IF_EMPTY = "DeleteIfEmpty"
    DELETE = "Delete"


class QueueSetSpec(_Model):
    """A group of queues with a common prefix, their retry queues and their dead letter queue."""

    namespace: Prefix = "tasks"
    """The prefix of all names in RabbitMQ; immutable."""
    queues: list[QueueSpec] = Field(min_length=1, max_length=limits.QUEUES_MAX)
    """The queues, most urgent first."""
    retry: Retry = Retry()
    """The retry queues of the queues without maxLength."""
    dead_letter: DeadLetter = DeadLetter()
    """The dead letter queue."""
    on_removal: OnRemoval = OnRemoval()
    """What happens when a queue is removed while tasks wait in it."""
    paused: bool = False
    """Whether no task starts; new tasks are still accepted."""
    deletion_policy: Annotated[QueueSetDeletionPolicy, Field(strict=False)] = QueueSetDeletionPolicy.RETAIN
    """Retain keeps the queues, DeleteIfEmpty deletes them once they are empty, Delete deletes them."""

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        _distinct("queues", [queue.name for queue in self.queues])
        if (target := self.on_removal.queue) and target not in {queue.name for queue in self.queues}:
            raise ValueError(f"onRemoval.queue {target!r} is not one of queues: name one that stays")
        return self


class Metadata(BaseModel):
    """The part of an object's metadata that dtq reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str = Field(min_length=1, max_length=253)
    namespace: str = Field(default="default", max_length=63)
    annotations: dict[str, str] = Field(default_factory=dict)


class TypeMetadata(Metadata):
    """The metadata of a TaskType; its name is the type."""

    name: TypeName


class QueueSetMetadata(Metadata):
    """The metadata of a QueueSet."""

    name: ObjectName


class TaskType(_Model):
    """A TaskType object."""

    api_version: Literal["dtq.dev/v1alpha1"] = API_VERSION
    kind: Literal["TaskType"]
    metadata: TypeMetadata
    spec: TaskTypeSpec = TaskTypeSpec()


class QueueSet(_Model):
    """A QueueSet object."""

    api_version: Literal["dtq.dev/v1alpha1"] = API_VERSION
    kind: Literal["QueueSet"]
    metadata: QueueSetMetadata
    spec: QueueSetSpec


Manifest = TaskType | QueueSet

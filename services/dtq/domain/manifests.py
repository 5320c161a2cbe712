"""TaskType and QueueSet as people declare them: the one model of both custom resources.

The models define shape, defaults and bounds. The CRDs are generated from these models, and `dtq apply` and the operator
parse with them. Must never coerce: `"TRUE"` is not a boolean and `"5"` is not a number.
"""

from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from dtq.domain import limits
from dtq.domain.backoff import Backoff, Strategy
from dtq.domain.names import KeyPath, ObjectName, Prefix, QueueName, TypeName, WorkQueueName

API_VERSION: Final = "dtq.dev/v1alpha1"

DelaySeconds = Annotated[int, Field(ge=1, le=limits.DELAY_SECONDS_MAX)]


def _distinct(what: str, values: list[Any]) -> None:
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise ValueError(f"{what} names {twice[0]!r} twice: keep one")


class _Model(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", strict=True, frozen=True)


class BackoffSpec(_Model):
    """How long a failed task waits before its next attempt."""

    strategy: Annotated[Strategy, Field(strict=False)] = Field(
        default=Strategy.LIST,
        description="Which rule picks the delay: List, Fixed or Exponential.",
    )
    delays_seconds: list[DelaySeconds] | None = Field(
        default=None,
        min_length=1,
        max_length=limits.DELAYS_MAX,
        description="List: the delay after attempt 1, 2, ...; the last one repeats.",
    )
    delay_seconds: DelaySeconds | None = Field(default=None, description="Fixed: the delay after every attempt.")
    base_seconds: DelaySeconds | None = Field(default=None, description="Exponential: the delay after attempt 1.")
    factor: Annotated[int, Field(ge=1, le=limits.BACKOFF_FACTOR_MAX)] | None = Field(
        default=None, description="Exponential: what each further delay is multiplied by."
    )
    max_seconds: DelaySeconds | None = Field(default=None, description="Exponential: the longest delay.")
    jitter_percent: int = Field(
        default=0, ge=0, le=100, description="How much of a delay chance may take away, in percent."
    )

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
        backoff = self.to_backoff()
        if backoff.strategy is Strategy.EXPONENTIAL and backoff.max_seconds < backoff.base_seconds:
            raise ValueError("maxSeconds is below baseSeconds: raise maxSeconds")
        return self

    def to_backoff(self) -> Backoff:
        """Return the policy; what is not given has the origin's default."""
        default = Backoff(strategy=self.strategy)
        delays = self.delays_seconds
        return Backoff(
            strategy=self.strategy,
            delays_seconds=tuple(map(float, delays)) if delays else default.delays_seconds,
            delay_seconds=float(self.delay_seconds or default.delay_seconds),
            base_seconds=float(self.base_seconds or default.base_seconds),
            factor=float(self.factor or default.factor),
            max_seconds=float(self.max_seconds or default.max_seconds),
            jitter_percent=float(self.jitter_percent),
        )


class Retention(_Model):
    """How long finished tasks are kept; 0 means: until the next pruning."""

    succeeded_seconds: int = Field(
        default=604_800,
        ge=0,
        le=limits.RETENTION_SECONDS_MAX,
        description="For SUCCEEDED and CANCELLED tasks.",
    )
    failed_seconds: int = Field(
        default=2_592_000, ge=0, le=limits.RETENTION_SECONDS_MAX, description="For FAILED tasks."
    )


class Concurrency(_Model):
    """How many tasks of the type run at once, in the whole cluster."""

    limit: int = Field(ge=1, le=limits.CONCURRENCY_MAX, description="Tasks that run at once, over all workers.")
    key: KeyPath | None = Field(
        default=None,
        description="A payload field such as customer.id: the limit then holds for each of its values.",
    )


class RateLimit(_Model):
    """How many tasks of the type start in a stretch of time, in the whole cluster: a token bucket."""

    tasks: int = Field(ge=1, le=limits.RATE_TASKS_MAX, description="Attempts that may start in perSeconds.")
    per_seconds: int = Field(
        default=1, ge=1, le=limits.RATE_SECONDS_MAX, description="The stretch of time that tasks refers to."
    )
    burst: Annotated[int, Field(ge=1, le=limits.RATE_TASKS_MAX)] | None = Field(
        default=None, description="Most starts at once after a quiet time; without it, as many as tasks."
    )


class ObjectRef(_Model):
    """The name of another object in the same namespace."""

    name: ObjectName = Field(description="The object's name.")


class Schedule(_Model):
    """One cron entry: enqueue the type with this payload whenever the expression matches."""

    name: QueueName = Field(description="Unique within the task type.")
    cron: str = Field(
        min_length=6, max_length=100, description="Five fields: minute hour day month weekday; or @daily and its like."
    )
    timezone: str = Field(default="UTC", max_length=64, description="An IANA name such as Europe/Berlin.")
    payload: dict[str, Any] = Field(default_factory=dict, description="The payload of each task it enqueues.")


class TaskTypeDeletionPolicy(StrEnum):
    """What becomes of the row when the TaskType is deleted."""

    DEACTIVATE = "Deactivate"
    RETAIN = "Retain"
    DELETE = "Delete"


class TaskTypeSpec(_Model):
    """One kind of work: where it goes and how it is run."""

    queue_set_ref: ObjectRef = Field(
        default=ObjectRef(name="default"), description="The QueueSet whose queues carry this type."
    )
    queue: QueueName = Field(default="default", description="The queue of that set, unless a task names another.")
    active: bool = Field(default=True, description="false refuses new tasks of this type; accepted ones still run.")
    max_attempts: int = Field(
        default=5,
        ge=1,
        le=limits.ATTEMPTS_MAX,
        description="How often a task is tried, unless it says otherwise.",
    )
    timeout_seconds: int = Field(
        default=300, ge=1, le=limits.TIMEOUT_SECONDS_MAX, description="How long one attempt may run."
    )
    backoff: BackoffSpec | None = Field(
        default=None, description="The wait between attempts; without it the worker's own default applies."
    )
    payload_schema: dict[str, Any] | None = Field(
        default=None,
        description="JSON Schema 2020-12 that every payload must satisfy; at most 64 KiB, no remote $ref.",
    )
    max_payload_bytes: int = Field(
        default=limits.PAYLOAD_BYTES_DEFAULT,
        ge=1,
        le=limits.PAYLOAD_BYTES_MAX,
        description="The largest payload, as JSON text.",
    )
    concurrency: Concurrency | None = Field(
        default=None, description="How many run at once in the whole cluster; without it, as many as there are slots."
    )
    rate_limit: RateLimit | None = Field(default=None, description="How many start in a stretch of time.")
    retention: Retention = Field(default=Retention(), description="How long finished tasks are kept.")
    schedule: list[Schedule] = Field(
        default_factory=list, max_length=limits.SCHEDULES_MAX, description="Tasks enqueued by the clock."
    )
    deletion_policy: Annotated[TaskTypeDeletionPolicy, Field(strict=False)] = Field(
        default=TaskTypeDeletionPolicy.DEACTIVATE,
        description="Deactivate refuses new tasks, Retain leaves the row, Delete drops it once no task refers to it.",
    )

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

    mode: Annotated[ScalingMode, Field(strict=False)] = Field(
        default=ScalingMode.HINTS,
        description="Hints publishes the number, Operator also scales targetRef, Disabled does neither.",
    )
    min_replicas: int = Field(
        default=0,
        ge=0,
        le=limits.REPLICAS_MAX,
        description="Fewest replicas; 0 lets an idle queue have no worker, so that its next task waits for a pod.",
    )
    max_replicas: int = Field(default=10, ge=0, le=limits.REPLICAS_MAX, description="Most replicas.")
    target_backlog_per_replica: int = Field(
        default=20,
        ge=1,
        le=limits.BACKLOG_PER_REPLICA_MAX,
        description="Ready and running tasks per replica.",
    )
    cooldown_seconds: int = Field(
        default=300,
        ge=0,
        le=86_400,
        description="How long the backlog must be lower before replicas are taken away.",
    )
    target_ref: ObjectRef | None = Field(
        default=None, description="The Deployment that mode Operator scales, in the same namespace."
    )

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("minReplicas is above maxReplicas: lower it")
        if self.mode is ScalingMode.OPERATOR and self.target_ref is None:
            raise ValueError("mode Operator needs targetRef: name the Deployment")
        return self


class QueueSpec(_Model):
    """One queue: a routing key of its set."""

    name: WorkQueueName = Field(description="The routing key.")
    type: Annotated[QueueType, Field(strict=False)] = Field(
        default=QueueType.QUORUM, description="Quorum survives the loss of a node; immutable."
    )
    max_length: Annotated[int, Field(ge=1, le=limits.MAX_LENGTH_MAX)] | None = Field(
        default=None,
        description="Most messages; a full queue refuses publishes, its retries wait in Postgres. Immutable.",
    )
    scaling: Scaling = Field(default=Scaling(), description="How many workers this queue wants.")


class Retry(_Model):
    """The retry ladder: delays that wait in the broker; any other, and those of a bounded queue, wait in Postgres."""

    delays_seconds: list[DelaySeconds] = Field(
        default=[5, 30, 120, 600, 3600],
        min_length=1,
        max_length=limits.RETRY_DELAYS_MAX,
        description="One durable queue per delay and queue.",
    )

    @model_validator(mode="after")
    def _delays_are_distinct(self) -> Self:
        _distinct("delaysSeconds", self.delays_seconds)
        return self


class DeadLetter(_Model):
    """What becomes of a copy of each task that failed for good."""

    enabled: bool = Field(default=True, description="Publish a copy to the dead letter queue.")


class RemovalPolicy(StrEnum):
    """What becomes of the tasks that wait in a queue which is taken out of its set."""

    REFUSE = "Refuse"
    MOVE_TO = "MoveTo"


class OnRemoval(_Model):
    """What happens when a queue is taken out of the set while tasks wait in it."""

    policy: Annotated[RemovalPolicy, Field(strict=False)] = Field(
        default=RemovalPolicy.REFUSE,
        description="Refuse keeps the queue while tasks wait in it, MoveTo moves them to another queue.",
    )
    queue: QueueName | None = Field(default=None, description="MoveTo: the queue of this set that takes the tasks.")

    @model_validator(mode="after")
    def _queue_fits_the_policy(self) -> Self:
        if self.policy is RemovalPolicy.MOVE_TO and self.queue is None:
            raise ValueError("policy MoveTo needs queue: name the queue that takes the tasks")
        if self.policy is RemovalPolicy.REFUSE and self.queue is not None:
            raise ValueError("queue belongs to policy MoveTo: remove it")
        return self


class QueueSetDeletionPolicy(StrEnum):
    """What becomes of the topology when the QueueSet is deleted."""

    RETAIN = "Retain"
    DELETE_IF_EMPTY = "DeleteIfEmpty"
    DELETE = "Delete"


class QueueSetSpec(_Model):
    """A group of queues with one prefix, its retry ladder and its dead letter queue."""

    namespace: Prefix = Field(default="tasks", description="Prefix of every name in the broker; immutable.")
    queues: list[QueueSpec] = Field(
        min_length=1, max_length=limits.QUEUES_MAX, description="The queues, most urgent first."
    )
    retry: Retry = Field(default=Retry(), description="The retry ladder of the queues without maxLength.")
    dead_letter: DeadLetter = Field(default=DeadLetter(), description="The dead letter queue.")
    on_removal: OnRemoval = Field(
        default=OnRemoval(), description="What happens when a queue is taken out while tasks wait in it."
    )
    paused: bool = Field(default=False, description="true hands out no task; enqueuing goes on.")
    deletion_policy: Annotated[QueueSetDeletionPolicy, Field(strict=False)] = Field(
        default=QueueSetDeletionPolicy.RETAIN,
        description="Retain leaves the queues, DeleteIfEmpty deletes them once empty, Delete deletes them.",
    )

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
    uid: str | None = None
    generation: int | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class TaskType(_Model):
    """A TaskType object; its name is the type."""

    api_version: Literal["dtq.dev/v1alpha1"] = API_VERSION
    kind: Literal["TaskType"]
    metadata: Metadata
    spec: TaskTypeSpec = TaskTypeSpec()

    @model_validator(mode="after")
    def _name_is_a_type(self) -> Self:
        _TypeNameCheck(name=self.metadata.name)
        return self


class QueueSet(_Model):
    """A QueueSet object."""

    api_version: Literal["dtq.dev/v1alpha1"] = API_VERSION
    kind: Literal["QueueSet"]
    metadata: Metadata
    spec: QueueSetSpec

    @model_validator(mode="after")
    def _name_is_legal(self) -> Self:
        ObjectRef(name=self.metadata.name)
        return self


class _TypeNameCheck(_Model):
    name: TypeName


Manifest = TaskType | QueueSet

"""Reads stored rows leniently: the previous and the next release write to the same tables.

A single unknown field makes a manifest invalid, but never a row. Fields that this release does not know are ignored.
Types and queues that cannot be understood without them are listed in `Newer` and wait for a newer release.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dtq.domain.backoff import Backoff, Strategy
from dtq.domain.manifests import (
    DeadLetter,
    ObjectRef,
    OnRemoval,
    QueueSetDeletionPolicy,
    QueueSetSpec,
    QueueSpec,
    QueueType,
    RemovalPolicy,
    Retry,
    Scaling,
    ScalingMode,
)


class NewerRelease(ValueError):
    """A stored value that this release cannot understand; the message says where and why."""


QueueKey = tuple[str, str]
"""Queue set and queue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Newer:
    """Types and queues that only a newer release understands, each with the reason.

    Attributes:
        types: by task type; workers leave its tasks to workers of that release.
        queues: neither declared nor consumed by this release; tasks may be sent there.
        scaling: queues for which the number of workers is unknown.
    """

    types: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[QueueKey, str] = field(default_factory=dict)
    scaling: Mapping[QueueKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredQueueSet:
    """A queue set's spec without the queues that only a newer release understands, and the reasons.

    Attributes:
        queues, scaling: the reason, by queue; see `Newer`.
    """

    spec: QueueSetSpec
    queues: Mapping[str, str]
    scaling: Mapping[str, str]


class _Stored(BaseModel):
    """camelCase as in manifests; unknown keys are ignored, and no bound of this release applies."""

    model_config = ConfigDict(alias_generator=to_camel, extra="ignore", frozen=True)


T = TypeVar("T", bound=_Stored)
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Most = Annotated[int, Field(ge=1)]


class _Backoff(_Stored):
    strategy: Strategy = Strategy.LIST
    delays_seconds: Annotated[tuple[Amount, ...], Field(min_length=1)] | None = None
    delay_seconds: Amount | None = None
    base_seconds: Amount | None = None
    factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    max_seconds: Amount | None = None
    jitter_percent: Annotated[float, Field(ge=0, le=100)] | None = None


class _Concurrency(_Stored):
    limit: Annotated[int, Field(strict=True, ge=0)]
    key: str | None = None


class _RateLimit(_Stored):
    tasks: Annotated[float, Field(strict=True, ge=0)]
    per_seconds: Annotated[float, Field(strict=True, gt=0)]
    burst: Annotated[float, Field(strict=True, ge=0)] | None = None


class _Target(_Stored):
    name: str


class _Scaling(_Stored):
    mode: ScalingMode = Scaling().mode
    min_replicas: Count = Scaling().min_replicas
    max_replicas: Count = Scaling().max_replicas
    target_backlog_per_replica: Most = Scaling().target_backlog_per_replica
    cooldown_seconds: Count = Scaling().cooldown_seconds
    target_ref: _Target | None = None


def backoff_of(stored: Any) -> Backoff | None:
    """Return the policy that `task_type.backoff` holds, or None.

    Raises:
        NewerRelease: this release does not know the strategy or does not allow a delay.
    """
    if stored is None:
        return None
    read = _read(_Backoff, stored, "backoff")
    given = {name: value for name in _Backoff.model_fields if (value := getattr(read, name)) is not None}
    return Backoff(**given)


def check_limits(concurrency: Any, rate_limit: Any) -> None:
    """Check that the claims of this release can enforce a type's limits.

    Raises:
        NewerRelease: they cannot.
    """
    if concurrency is not None:
        _read(_Concurrency, concurrency, "concurrency")
    if rate_limit is not None:
        _read(_RateLimit, rate_limit, "rateLimit")


def scaling_of(stored: Any) -> Scaling:
    """Return the scaling that `queue.scaling` holds.

    Raises:
        NewerRelease: this release does not know the mode or does not allow a number.
    """
    read = _read(_Scaling, stored, "scaling")
    target = None if read.target_ref is None else ObjectRef.model_construct(name=read.target_ref.name)
    return Scaling.model_construct(**{**dict(read), "target_ref": target})


def queue_set_of(row: Mapping[str, Any], queues: Sequence[Mapping[str, Any]]) -> StoredQueueSet:
    """Return the spec that the rows of a queue set and of its queues hold."""
    readable: list[QueueSpec] = []
    unknown_queues: dict[str, str] = {}
    unknown_scaling: dict[str, str] = {}
    for queue in queues:
        name = queue["name"]
        if queue["type"] not in set(QueueType):
            unknown_queues[name] = f"type {queue['type']!r} is unknown to this release"
            continue
        try:
            scaling = scaling_of(queue["scaling"])
        except NewerRelease as error:
            unknown_scaling[name] = str(error)
            scaling = Scaling(mode=ScalingMode.DISABLED)
        readable.append(
            QueueSpec.model_construct(
                name=name, type=QueueType(queue["type"]), max_length=queue["max_length"], scaling=scaling
            )
        )
    policy, moved_to = row["deletion_policy"], row["removal_queue"]
    spec = QueueSetSpec.model_construct(
        namespace=row["namespace"],
        queues=readable,
        retry=Retry.model_construct(delays_seconds=list(row["retry_delays_seconds"])),
        dead_letter=DeadLetter(enabled=row["dead_letter"]),
        paused=row["paused"],
        deletion_policy=QueueSetDeletionPolicy(policy)
        if policy in set(QueueSetDeletionPolicy)
        else QueueSetDeletionPolicy.RETAIN,
        on_removal=OnRemoval(policy=RemovalPolicy.MOVE_TO, queue=moved_to) if moved_to else OnRemoval(),
    )
    return StoredQueueSet(spec=spec, queues=unknown_queues, scaling=unknown_scaling)


def _read(model: type[T], stored: Any, where: str) -> T:
    try:
        return model.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(map(str, (where, *first["loc"])))
        raise NewerRelease(f"{path} is {str(first['input'])[:60]!r}, which this release does not understand") from error

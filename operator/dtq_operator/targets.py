"""The scaling mode `Operator`: sets the replicas of the Deployments that queues name as their target.

Each target gets one number, even if several queues or queue sets name it. If the number is unknown or cannot be set,
the replicas stay unchanged, the reason is reported, and the scaling is tried again at growing intervals.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import structlog

from dtq.domain.errors import Unavailable
from dtq.domain.manifests import Scaling
from dtq.domain.scaling import Load, desired_together, shared_bounds
from dtq.runtime.loops import Retries
from dtq_kube.errors import Conflict, NotFound
from dtq_operator.kube import Object
from dtq_operator.reasons import ConditionReason, EventReason
from dtq_operator.shared import Shared
from dtq_operator.store import Key

RETRY_SECONDS_MAX: Final = 120.0
"""Longest pause before a target that could not be scaled is tried again, in seconds."""
CONFLICTS_MAX: Final = 3
"""Conflicts in a row after which another scaler, or the API server itself, is taken to be the permanent cause."""

Trouble = tuple[ConditionReason, str]
"""Why a target is not scaled: reason and message of a condition."""

_log = structlog.get_logger(__name__)


class Target(NamedTuple):
    """A Deployment."""

    namespace: str
    deployment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The demand of one queue on its target.

    Attributes:
        obj: the queue set.
        load: None while it is unknown.
        desired: the replicas that the queue would need of a target of its own; None while that is unknown.
        is_paused: its queue set is paused: only running tasks count.
    """

    key: Key
    obj: Object
    queue: str
    scaling: Scaling
    load: Load | None
    desired: int | None
    is_paused: bool = False

    @property
    def title(self) -> str:
        """The queue's name, for messages."""
        return f"{self.key.name}/{self.queue}"


class Cooldown:
    """Keeps a number from falling too soon: numbers desired within the cooldown still count.

    Args:
        known: the number in force before this process started, if any: it counts as desired now.
    """

    def __init__(self, known: int | None, now: float) -> None:
        self._wanted: list[tuple[float, int]] = [] if known is None else [(now, known)]

    def settle(self, wanted: int, scaling: Scaling, now: float) -> int:
        """Return the highest number desired within the cooldown, limited by the current maximum."""
        self._wanted = [(at, number) for at, number in self._wanted if now - at <= scaling.cooldown_seconds]
        self._wanted.append((now, wanted))
        return max(wanted, min(scaling.max_replicas, max(number for _, number in self._wanted)))


@dataclass(slots=True)
class _Failing:
    """A target that could not be scaled, and when it is tried again."""

    retries: Retries
    trouble: Trouble | None = None


class Targets:
    """Scales Deployments."""

    def __init__(self, shared: Shared) -> None:
        self._kube = shared.kube
        self._events = shared.events
        self._pause_seconds = shared.pace.scaling_seconds
        self._cooldowns: dict[Target, Cooldown] = {}
        self._failing: dict[Target, _Failing] = {}

    async def settle(self, demands: Mapping[Target, Sequence[Demand]]) -> dict[Target, Trouble]:
        """Scale every target to the common demand of its queues; return the failures, by target."""
        self._cooldowns = {target: kept for target, kept in self._cooldowns.items() if target in demands}
        self._failing = {target: kept for target, kept in self._failing.items() if target in demands}
        namespaces = sorted({target.namespace for target in demands if not self._waits(target)})
        scalers = dict(zip(namespaces, await asyncio.gather(*map(self._scalers, namespaces)), strict=True))
        troubles = await asyncio.gather(
            *(self._settle(target, queues, scalers.get(target.namespace)) for target, queues in demands.items())
        )
        return {target: trouble for target, trouble in zip(demands, troubles, strict=True) if trouble is not None}

    async def _scalers(self, namespace: str) -> Mapping[str, str] | Exception:
        """Return the other scalers of Deployments in a namespace, or why they are unknown."""
        try:
            return await self._kube.other_scalers(namespace)
        except (Unavailable, Conflict) as error:
            return error

    def _waits(self, target: Target) -> bool:
        failing = self._failing.get(target)
        return failing is not None and failing.trouble is not None and not failing.retries.is_due

    async def _settle(
        self, target: Target, queues: Sequence[Demand], scalers: Mapping[str, str] | Exception | None
    ) -> Trouble | None:
        """Scale one target; return why it failed, or None."""
        if all(demand.is_paused for demand in queues):
            return None
        if unknown := ", ".join(sorted(demand.title for demand in queues if demand.load is None)):
            text = f"the backlog of queue {unknown} is unknown: Deployment {target.deployment} is not scaled"
            return ConditionReason.STATS_UNAVAILABLE, text
        if scalers is None or self._waits(target):
            return self._failing[target].trouble
        try:
            if isinstance(scalers, Exception):
                raise scalers
            trouble = await self._scale(target, queues, scalers)
        except (Unavailable, Conflict) as error:
            return self._failed(target, error)
        self._failing.pop(target, None)
        return trouble

    async def _scale(self, target: Target, queues: Sequence[Demand], scalers: Mapping[str, str]) -> Trouble | None:
        name = target.deployment
        if other := scalers.get(name):
            text = f"{other} already scales Deployment {name}: remove it, or set scaling.mode to Hints"
            return ConditionReason.EXTERNALLY_MANAGED, text
        try:
            current, version = await self._kube.scale(target.namespace, name)
            wanted = self._wanted(target, queues, current)
            if current == wanted:
                return None
            await self._kube.patch_scale(target.namespace, name, wanted, version)
        except NotFound:
            text = f"Deployment {name} does not exist: create it, or correct targetRef"
            return ConditionReason.TARGET_NOT_FOUND, text
        for demand in {demand.key: demand for demand in queues}.values():
            message = f"{name}: {current} to {wanted} replicas"
            await self._events.record("QueueSet", demand.obj, EventReason.SCALED, message)
        return None

    def _wanted(self, target: Target, queues: Sequence[Demand], current: int) -> int:
        """Return the number for a target; if only one queue names it, the queue's own number already has a cooldown."""
        if len(queues) == 1 and queues[0].desired is not None:
            return queues[0].desired
        parts = []
        for demand in queues:
            assert demand.load is not None
            load = demand.load
            if demand.is_paused:
                load = Load(ready=0, running=load.running, concurrency=load.concurrency)
            parts.append((load, demand.scaling))
        now = time.monotonic()
        cooldown = self._cooldowns.setdefault(target, Cooldown(current, now))
        return cooldown.settle(desired_together(parts), shared_bounds([scaling for _, scaling in parts]), now)

    def _failed(self, target: Target, error: Exception) -> Trouble | None:
        """Record a failure; return its reason and message."""
        retries = Retries(first_seconds=self._pause_seconds, longest_seconds=RETRY_SECONDS_MAX)
        failing = self._failing.setdefault(target, _Failing(retries))
        failing.retries.failed()
        if isinstance(error, Conflict) and failing.retries.failures < CONFLICTS_MAX:
            failing.trouble = None
            _log.info("scale conflicted", target=target.deployment, reason=str(error))
            return None
        failing.trouble = (ConditionReason.SCALING_FAILED, f"Deployment {target.deployment} is not scaled: {error}")
        _log.warning("scale failed", target=target.deployment, reason=str(error), again_after=failing.retries.seconds)
        return failing.trouble

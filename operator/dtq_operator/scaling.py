"""Scaling by the operator: computes and publishes the desired replicas of each queue, and scales where asked to.

An unknown backlog never means 0: the replicas stay unchanged.
"""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import structlog
from prometheus_client import Gauge

from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSet, QueueSpec, ScalingMode
from dtq.domain.scaling import Load, desired_replicas
from dtq_db import backlog
from dtq_operator.conditions import is_accepted, is_ready
from dtq_operator.shared import Shared
from dtq_operator.store import Key
from dtq_operator.targets import Cooldown, Demand, Target, Targets, Trouble

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hints:
    """The scaling hints of a queue set.

    Attributes:
        desired: replicas by queue; a queue whose backlog is unknown is absent.
        troubles: reason and message by queue whose Deployment is not scaled.
    """

    desired: Mapping[str, int] = field(default_factory=dict)
    troubles: Mapping[str, Trouble] = field(default_factory=dict)


class Scaler:
    """Computes the hints for every queue set of the store."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._targets = Targets(shared)
        self._hints: dict[str, Hints] = {}
        self._cooldowns: dict[tuple[str, str], Cooldown] = {}

    async def hints(self, key: Key, manifest: QueueSet) -> Hints:
        """Return the hints of a queue set; compute them now if they are missing, so that its status is written once."""
        known = self._hints.get(key.name)
        if known is None:
            known = self._hints[key.name] = Hints(desired=(await self._measure(key, manifest))[0])
        return known

    def desired(self, queue_set: str, queue: str) -> int | None:
        """Return the desired replicas of a queue as last computed; None while they are unknown."""
        return self._hints.get(queue_set, Hints()).desired.get(queue)

    async def once(self) -> bool:
        """Compute the hints once; return False."""
        found: dict[Key, dict[str, int]] = {}
        demands: dict[Target, list[Demand]] = {}
        for key, obj, manifest in self._shared.store.present(QueueSet):
            if not is_accepted(obj):
                continue
            desired: dict[str, int] = {}
            loads: dict[str, Load] = {}
            if is_ready(obj):
                desired, loads = await self._measure(key, manifest)
                found[key] = desired
            for queue in manifest.spec.queues:
                if queue.scaling.mode is ScalingMode.OPERATOR and queue.scaling.target_ref:
                    target = Target(key.namespace, queue.scaling.target_ref.name)
                    demand = Demand(
                        key=key, obj=obj, queue=queue.name, scaling=queue.scaling, load=loads.get(queue.name),
                        desired=desired.get(queue.name), is_paused=manifest.spec.paused,
                    )  # fmt: skip
                    demands.setdefault(target, []).append(demand)
        troubles = await self._targets.settle(demands)
        told: dict[Key, dict[str, Trouble]] = {}
        for target, trouble in troubles.items():
            for demand in demands[target]:
                told.setdefault(demand.key, {})[demand.queue] = trouble
        for key, desired in found.items():
            await self._tell(key, Hints(desired=desired, troubles=told.get(key, {})))
        return False

    async def _tell(self, key: Key, after: Hints) -> None:
        """Store the hints of a queue set, and have its status written if they have changed."""
        before = self._hints.get(key.name, Hints())
        self._hints[key.name] = after
        if after == before:
            return
        self._shared.queue.add(key)  # its status must be written
        obj = self._shared.store.get(key)
        for queue, (reason, text) in after.troubles.items():
            if obj is not None and before.troubles.get(queue) != (reason, text):
                await self._shared.events.record("QueueSet", obj, reason, f"queue {queue}: {text}", warning=True)

    async def _measure(self, key: Key, manifest: QueueSet) -> tuple[dict[str, int], dict[str, Load]]:
        """Return desired replicas and load by queue, and publish them; queues with an unknown backlog are absent."""
        try:
            queues = [queue.name for queue in manifest.spec.queues]
            loads = await backlog.loads(self._shared.database, key.name, queues)
        except Unavailable as error:
            _log.warning("backlog read failed", queue_set=key.name, reason=str(error))
            loads = {}
        desired = {
            queue.name: self._desired(key, queue, loads[queue.name])
            for queue in manifest.spec.queues
            if queue.name in loads and queue.scaling.mode is not ScalingMode.DISABLED
        }
        self._publish(key.name, manifest, loads, desired)
        return desired, loads

    def _desired(self, key: Key, queue: QueueSpec, load: Load) -> int:
        now = time.monotonic()
        cooldown = self._cooldowns.get((key.name, queue.name))
        if cooldown is None:
            status = (self._shared.store.get(key) or {}).get("status") or {}
            known = [told.get("desiredReplicas") for told in status.get("queues", ()) if told["name"] == queue.name]
            cooldown = self._cooldowns[key.name, queue.name] = Cooldown(known[0] if known else None, now)
        return cooldown.settle(desired_replicas(load, queue.scaling), queue.scaling, now)

    def _publish(
        self, queue_set: str, manifest: QueueSet, loads: Mapping[str, Load], desired: Mapping[str, int]
    ) -> None:
        """Set the gauges; an unknown value has no gauge."""
        for queue in manifest.spec.queues:
            load = loads.get(queue.name)
            ready, running = (load.ready, load.running) if load else (None, None)
            _set(self._shared.metrics.desired_replicas, (queue_set, queue.name), desired.get(queue.name))
            _set(self._shared.metrics.backlog, (queue_set, queue.name, "ready"), ready)
            _set(self._shared.metrics.backlog, (queue_set, queue.name, "running"), running)


def _set(gauge: Gauge, labels: tuple[str, ...], value: int | None) -> None:
    if value is None:
        with suppress(KeyError):
            gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)

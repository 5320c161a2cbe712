"""Scaling by the operator: computes what each queue wants, publishes it, and acts where it is asked to.

Owns cooldown and the executor `Operator`. Unknown means: leave everything as it is, never 0.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress

import structlog
from prometheus_client import Gauge

from dtq.broker.admin import connected
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.manifests import QueueSet, QueueSpec, Scaling, ScalingMode
from dtq.domain.scaling import Load, desired_replicas
from dtq.domain.topology import work_queue
from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.settings import Settings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_operator.conditions import is_ready
from dtq_operator.events import Events
from dtq_operator.hints import Hints
from dtq_operator.kube import Conflict, Kube, Object
from dtq_operator.reasons import Happened, Why
from dtq_operator.reconciler import parse
from dtq_operator.store import Key, Store

_log = structlog.get_logger(__name__)


class Cooldown:
    """Keeps a number from falling too soon: what was wanted within the cooldown still counts.

    Args:
        known: the number in force before this process began, if any: it counts as wanted now.
    """

    def __init__(self, known: int | None, now: float) -> None:
        self._wanted: list[tuple[float, int]] = [] if known is None else [(now, known)]

    def settle(self, wanted: int, scaling: Scaling, now: float) -> int:
        """Return the highest number wanted within the cooldown, within today's maximum."""
        self._wanted = [(at, one) for at, one in self._wanted if now - at <= scaling.cooldown_seconds]
        self._wanted.append((now, wanted))
        return max(wanted, min(scaling.max_replicas, max(one for _, one in self._wanted)))


class Scaler:
    """Looks at every queue set of the store.

    Args:
        changed: called with the key of a set whose numbers have changed: its status is to be written.
    """

    def __init__(
        self,
        settings: Settings,
        kube: Kube,
        store: Store,
        database: Database,
        events: Events,
        *,
        changed: Callable[[Key], None],
        metrics: OperatorMetrics,
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._store = store
        self._database = database
        self._events = events
        self._changed = changed
        self._metrics = metrics
        self._hints: dict[str, Hints] = {}
        self._cooldowns: dict[tuple[str, str], Cooldown] = {}

    async def hints(self, key: Key, manifest: QueueSet) -> Hints:
        """Return what is known of a queue set; look now if nobody has, so that its status is written once."""
        known = self._hints.get(key.name)
        if known is None:
            known = self._hints[key.name] = Hints(desired=await self._measure(key, manifest))
        return known

    async def once(self) -> bool:
        """Look once; return False."""
        for key, obj in self._store.of_kind("QueueSet"):
            if not obj["metadata"].get("deletionTimestamp") and is_ready(obj):
                await self._look(key, obj)
        return False

    async def _look(self, key: Key, obj: Object) -> None:
        manifest = parse(key.kind, obj)
        assert isinstance(manifest, QueueSet)
        desired = await self._measure(key, manifest)
        acts = {} if manifest.spec.paused else {
            queue.name: queue.scaling.target_ref.name for queue in manifest.spec.queues
            if queue.name in desired and queue.scaling.mode is ScalingMode.OPERATOR and queue.scaling.target_ref
        }  # fmt: skip
        before = self._hints.get(key.name, Hints())
        troubles = await self._act(key, obj, acts, desired, before.troubles) if acts else {}
        after = self._hints[key.name] = Hints(desired=desired, troubles=troubles)
        if after != before:
            self._changed(key)

    async def _measure(self, key: Key, manifest: QueueSet) -> dict[str, int]:
        """Return desired replicas by queue, and publish them; what is unknown is absent."""
        try:
            loads = await self._loads(key.name, manifest)
        except (Unavailable, Rejected) as error:
            _log.warning("a backlog is unknown", queue_set=key.name, reason=str(error))
            loads = {}
        desired = {
            queue.name: self._desired(key, queue, loads[queue.name])
            for queue in manifest.spec.queues
            if queue.name in loads and queue.scaling.mode is not ScalingMode.DISABLED
        }
        self._publish(key.name, manifest, loads, desired)
        return desired

    def _desired(self, key: Key, queue: QueueSpec, load: Load) -> int:
        now = time.monotonic()
        cooldown = self._cooldowns.get((key.name, queue.name))
        if cooldown is None:
            status = (self._store.get(key) or {}).get("status") or {}
            known = [one.get("desiredReplicas") for one in status.get("queues", ()) if one["name"] == queue.name]
            cooldown = self._cooldowns[key.name, queue.name] = Cooldown(known[0] if known else None, now)
        return cooldown.settle(desired_replicas(load, queue.scaling), queue.scaling, now)

    async def _loads(self, name: str, manifest: QueueSet) -> dict[str, Load]:
        spec = manifest.spec
        running = await catalog.running_counts(self._database)
        async with connected(self._settings.rmq_url) as admin:
            ready = await admin.counts([work_queue(spec.namespace, queue.name) for queue in spec.queues])
        loads = {}
        for queue in spec.queues:
            count = ready[work_queue(spec.namespace, queue.name)]
            if count is not None:
                busy, slots = running.get(f"{name}/{queue.name}", (0, 0))
                loads[queue.name] = Load(ready=count, running=busy, concurrency=slots)
        return loads

    def _publish(
        self, queue_set: str, manifest: QueueSet, loads: Mapping[str, Load], desired: Mapping[str, int]
    ) -> None:
        """Set the gauges; what is unknown has none."""
        for queue in manifest.spec.queues:
            load = loads.get(queue.name)
            ready, running = (load.ready, load.running) if load else (None, None)
            _set(self._metrics.desired_replicas, (queue_set, queue.name), desired.get(queue.name))
            _set(self._metrics.backlog, (queue_set, queue.name, "ready"), ready)
            _set(self._metrics.backlog, (queue_set, queue.name, "running"), running)

    async def _act(
        self,
        key: Key,
        obj: Object,
        acts: Mapping[str, str],
        desired: Mapping[str, int],
        before: Mapping[str, tuple[Why, str]],
    ) -> dict[str, tuple[Why, str]]:
        """Scale the Deployment of each queue; return why that was not possible, by queue."""
        troubles: dict[str, tuple[Why, str]] = {}
        try:
            others = await self._kube.other_scalers(key.namespace)
            for queue, deployment in acts.items():
                if other := others.get(deployment):
                    text = f"{other} scales Deployment {deployment} already: remove it, or set scaling.mode Hints"
                    troubles[queue] = (Why.EXTERNALLY_MANAGED, text)
                elif not await self._scale(key, obj, deployment, desired[queue]):
                    troubles[queue] = (Why.TARGET_NOT_FOUND, f"there is no Deployment {deployment}: create it")
        except Conflict as error:
            _log.info("somebody else scales just now", queue_set=key.name, reason=str(error))
        except Unavailable as error:
            _log.warning("scaling waits", queue_set=key.name, reason=str(error))
            text = "the Kubernetes API does not answer or does not allow it: the operator's log says which"
            troubles = dict.fromkeys(acts, (Why.SCALING_FAILED, text))
        for queue, (reason, text) in troubles.items():
            if before.get(queue) != (reason, text):
                await self._events.record("QueueSet", obj, reason, f"queue {queue}: {text}", warning=True)
        return troubles

    async def _scale(self, key: Key, obj: Object, deployment: str, desired: int) -> bool:
        """Scale a Deployment; return whether there is one."""
        found = await self._kube.scale(key.namespace, deployment)
        if found is None:
            return False
        current, resource_version = found
        if current != desired:
            await self._kube.patch_scale(key.namespace, deployment, desired, resource_version)
            message = f"{deployment}: {current} to {desired} replicas"
            await self._events.record("QueueSet", obj, Happened.SCALED, message)
        return True


def _set(gauge: Gauge, labels: tuple[str, ...], value: int | None) -> None:
    if value is None:
        with suppress(KeyError):
            gauge.remove(*labels)
    else:
        gauge.labels(*labels).set(value)

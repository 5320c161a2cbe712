"""Scaling by the operator: computes what each queue wants, publishes it, and acts where it is asked to.

Owns cooldown and the executor `Operator`. Unknown means: leave everything as it is, never 0.
"""

import time
from collections.abc import Callable

import structlog

from dtq.broker.admin import connected
from dtq.domain.errors import Unavailable
from dtq.domain.manifests import QueueSet, QueueSpec, ScalingMode
from dtq.domain.scaling import Load, desired_replicas
from dtq.domain.topology import work_queue
from dtq.runtime.metrics import OperatorMetrics
from dtq.runtime.settings import Settings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_operator.events import Events
from dtq_operator.kube import Conflict, Kube, Object
from dtq_operator.reconciler import parse
from dtq_operator.store import Key, Store

_log = structlog.get_logger(__name__)


class Cooldown:
    """Keeps a number from falling too soon: what was wanted within the cooldown still counts."""

    def __init__(self) -> None:
        self._wanted: list[tuple[float, int]] = []

    def settle(self, wanted: int, cooldown_seconds: float, now: float) -> int:
        """Return the highest number wanted within the cooldown."""
        self._wanted = [(at, one) for at, one in self._wanted if now - at <= cooldown_seconds]
        self._wanted.append((now, wanted))
        return max(one for _, one in self._wanted)


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
        self._desired: dict[str, dict[str, int]] = {}
        self._cooldowns: dict[tuple[str, str], Cooldown] = {}

    def desired(self, queue_set: str) -> dict[str, int]:
        """Return desired replicas by queue; empty while unknown."""
        return self._desired.get(queue_set, {})

    async def once(self) -> bool:
        """Look once; return False."""
        for key, obj in self._store.of_kind("QueueSet"):
            if not obj["metadata"].get("deletionTimestamp") and _is_ready(obj):
                await self._look(key, obj)
        return False

    async def _look(self, key: Key, obj: Object) -> None:
        manifest = parse(key.kind, obj)
        assert isinstance(manifest, QueueSet)
        try:
            loads = await self._loads(key.name, manifest)
        except Unavailable as error:
            _log.warning("a backlog is unknown", queue_set=key.name, reason=str(error))
            loads = {}
        before, after = self._desired.get(key.name, {}), {}
        for queue in manifest.spec.queues:
            load = loads.get(queue.name)
            if load is None or queue.scaling.mode is ScalingMode.DISABLED:
                continue
            wanted = desired_replicas(load, queue.scaling)
            cooldown = self._cooldowns.setdefault((key.name, queue.name), Cooldown())
            after[queue.name] = cooldown.settle(wanted, queue.scaling.cooldown_seconds, time.monotonic())
            self._publish(key.name, queue, load, after[queue.name])
            if queue.scaling.mode is ScalingMode.OPERATOR and not manifest.spec.paused:
                await self._scale(key, obj, queue, load, after[queue.name])
        self._desired[key.name] = after
        if after != before:
            self._changed(key)

    async def _loads(self, name: str, manifest: QueueSet) -> dict[str, Load]:
        spec = manifest.spec
        running = await catalog.running_counts(self._database)
        url = self._settings.model_copy(update={"rmq_vhost": spec.vhost}).rmq_url
        async with connected(url) as admin:
            ready = await admin.counts([work_queue(spec.namespace, queue.name) for queue in spec.queues])
        loads = {}
        for queue in spec.queues:
            count = ready[work_queue(spec.namespace, queue.name)]
            if count is not None:
                busy, slots = running.get(f"{name}/{queue.name}", (0, 0))
                loads[queue.name] = Load(ready=count, running=busy, concurrency=slots)
        return loads

    def _publish(self, queue_set: str, queue: QueueSpec, load: Load, desired: int) -> None:
        self._metrics.desired_replicas.labels(queue_set, queue.name).set(desired)
        self._metrics.backlog.labels(queue_set, queue.name, "ready").set(load.ready)
        self._metrics.backlog.labels(queue_set, queue.name, "running").set(load.running)

    async def _scale(self, key: Key, obj: Object, queue: QueueSpec, load: Load, desired: int) -> None:
        target = queue.scaling.target_ref
        assert target is not None
        try:
            found = await self._kube.scale(key.namespace, target.name)
            if found is None:
                message = f"queue {queue.name}: there is no Deployment {target.name}"
                await self._events.record("QueueSet", obj, "TargetNotFound", message, warning=True)
                return
            current, resource_version = found
            if current != desired:
                await self._kube.patch_scale(key.namespace, target.name, desired, resource_version)
                message = f"{target.name}: {current} to {desired} replicas, backlog {load.backlog}"
                await self._events.record("QueueSet", obj, "Scaled", message)
        except (Conflict, Unavailable) as error:
            _log.warning("scaling waits", deployment=target.name, reason=str(error))


def _is_ready(obj: Object) -> bool:
    found = (obj.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in found)

"""The sweep: compares everything with everything, now and then, and lets go of what nobody declares any more.

Owns drift detection, the watch's health and orphans. Its reads are cheap: two lists of metadata, one select.
Must never let go of many claims at once: a wrong setting must not deactivate production.
"""

import time
from typing import Final

import structlog

from dtq.domain.manifests import TaskType
from dtq.domain.plan import EMBEDDED_UID, LOCAL_UID
from dtq.domain.rows import task_type_row
from dtq.runtime.metrics import OperatorMetrics
from dtq_db import resources
from dtq_db.connections import Database
from dtq_operator.kube import PLURALS, Kube, Object
from dtq_operator.reconciler import parse
from dtq_operator.store import Key, Store, version
from dtq_operator.workqueue import WorkQueue

ORPHANS_MIN: Final = 5
ORPHANS_SHARE: Final = 0.2
"""At most ORPHANS_MIN or this share of all claims, whichever is more, may be orphans; else none is let go of."""

_log = structlog.get_logger(__name__)


class Sweep:
    """Looks at everything once a call.

    Args:
        namespaces: those that are watched; empty means all.
        orphan_seconds: how long an object must be missing, in two sweeps at least, before its claim is let go of.
    """

    def __init__(
        self,
        kube: Kube,
        store: Store,
        database: Database,
        queue: WorkQueue[Key],
        *,
        namespaces: tuple[str, ...],
        orphan_seconds: float,
        metrics: OperatorMetrics,
    ) -> None:
        self._kube = kube
        self._store = store
        self._database = database
        self._queue = queue
        self._namespaces: tuple[str | None, ...] = namespaces or (None,)
        self._metrics = metrics
        self._orphan_seconds = orphan_seconds
        self._missing_since: dict[Key, float] = {}
        self.ended_at = time.monotonic()
        """When a sweep last came to its end: the liveness of the operator."""
        self.is_flooded = False
        """Whether more claims look orphaned than may be let go of."""

    async def once(self) -> bool:
        """Sweep once; return False.

        Raises:
            Unavailable: the Kubernetes API or Postgres does not answer; the next sweep tries again.
        """
        present: dict[Key, Object] = {}
        for kind in PLURALS:
            for namespace in self._namespaces:
                for meta in await self._kube.list_metadata(kind, namespace):
                    present[Key(kind, meta["namespace"], meta["name"])] = meta
        await self._catch_up(present)
        await self._find_drift()
        await self._find_orphans(present)
        self._count()
        self.ended_at = time.monotonic()
        self._metrics.last_sweep.set_to_current_time()
        return False

    async def _catch_up(self, present: dict[Key, Object]) -> None:
        """Take over what the watch has not told us: it may be slow, cut, or silent."""
        for key, meta in present.items():
            known = self._store.get(key)
            if known is None or version(known) < int(meta["resourceVersion"]):
                fresh = await self._kube.get(key.kind, key.namespace, key.name)
                if fresh is not None:
                    self._store.put(key, fresh)
                    self._queue.add(key)
        for kind in PLURALS:
            for key, known in self._store.of_kind(kind):
                if key not in present:
                    self._store.remove(key, known)
                    self._queue.add(key)

    async def _find_drift(self) -> None:
        """Have reconciled what is not as declared; queue sets always, since the broker tells no hash."""
        rows = await resources.task_types(self._database)
        for key, obj in self._store.of_kind("TaskType"):
            if obj["metadata"].get("deletionTimestamp"):
                continue
            try:
                manifest = parse(key.kind, obj)
            except ValueError:
                continue
            assert isinstance(manifest, TaskType)
            if rows.get(key.name) != task_type_row(manifest):
                self._queue.add(key)
        for key, _ in self._store.of_kind("QueueSet"):
            self._queue.add(key)

    async def _find_orphans(self, present: dict[Key, Object]) -> None:
        """Let go of claims whose object was deleted while nobody watched."""
        claims = await resources.claims(self._database)
        ours = {
            Key(kind, owner.namespace, owner.name): (kind, key, owner)
            for kind, key, owner in claims
            if owner.uid not in (LOCAL_UID, EMBEDDED_UID)
            and (self._namespaces == (None,) or owner.namespace in self._namespaces)
        }
        now = time.monotonic()
        missing = {key for key in ours if key not in present}
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        self._metrics.orphans.set(len(missing))
        allowed = max(ORPHANS_MIN, int(ORPHANS_SHARE * len(ours)))
        self.is_flooded = len(missing) > allowed
        if self.is_flooded:
            _log.error(
                "OrphanFloodSuspected: none is let go of; check DTQ_WATCH_NAMESPACES",
                orphans=len(missing), allowed=allowed, claims=len(ours),
            )  # fmt: skip
            return
        for key in missing:
            if now - self._missing_since[key] < self._orphan_seconds:
                continue
            if await self._kube.get(key.kind, key.namespace, key.name) is not None:
                continue
            _, _, owner = ours[key]
            self._store.gone[key] = {
                "metadata": {"uid": owner.uid, "namespace": owner.namespace, "name": owner.name,
                             "generation": owner.generation}
            }  # fmt: skip
            self._queue.add(key)

    def _count(self) -> None:
        for kind in PLURALS:
            ready = 0
            total = 0
            for _, obj in self._store.of_kind(kind):
                total += 1
                found = (obj.get("status") or {}).get("conditions") or []
                ready += any(one.get("type") == "Ready" and one.get("status") == "True" for one in found)
            self._metrics.objects.labels(kind, "true").set(ready)
            self._metrics.objects.labels(kind, "false").set(total - ready)

"""Periodic resync: finds drift, missed watch events and orphaned claims.

Its reads are cheap: two lists of metadata and one SELECT. Many claims are never released at once: a wrong setting must
not deactivate production.
"""

import time
from collections.abc import Mapping
from typing import Final

import structlog

from dtq.domain.manifests import TaskType
from dtq.domain.owners import EMBEDDED_UID, LOCAL_UID
from dtq.domain.rows import task_type_row
from dtq_db import resources
from dtq_operator.conditions import is_ready
from dtq_operator.kube import PLURALS, Object
from dtq_operator.shared import Shared
from dtq_operator.store import Key, key_of, version

ORPHANS_MIN: Final = 5
SINGLE_READS_MAX: Final = 20
"""Most objects that are read one by one; more objects are cheaper to read by the page."""
ORPHANS_SHARE: Final = 0.2
"""At most ORPHANS_MIN or this share of all claims, whichever is more, may be orphans; otherwise none is released."""

_log = structlog.get_logger(__name__)


class Sweep:
    """Compares all objects with the store, the claims and the versions that the watch has reported."""

    def __init__(self, shared: Shared, told: Mapping[Key, int]) -> None:
        self._shared = shared
        self._namespaces: tuple[str | None, ...] = shared.settings.watch_namespaces or (None,)
        self._missing_since: dict[Key, float] = {}
        self._told = told
        self._listed: dict[Key, int] = {}
        self.tried_at = time.monotonic()
        """When a sweep last ended, even if a backend did not answer."""
        self.behind_since: float | None = None
        """Since when the watch has missed a version that two sweeps have seen; None while it misses none."""
        self.is_flooded = False
        """Whether more claims look orphaned than may be released."""

    async def once(self) -> bool:
        """Sweep once; return False.

        Raises:
            Unavailable: the Kubernetes API or Postgres does not answer; the next sweep tries again.
        """
        try:
            present = await self._list(only_metadata=True)
            self._check_watch_progress(present)
            await self._catch_up(present)
            await self._find_drift()
            await self._find_orphans(present)
        finally:
            self.tried_at = time.monotonic()
        self._count()
        self._shared.metrics.last_sweep.set_to_current_time()
        return False

    async def _list(self, *, only_metadata: bool) -> dict[Key, Object]:
        return {
            key_of(kind, obj): obj
            for kind in PLURALS
            for namespace in self._namespaces
            for obj in await self._shared.kube.list_objects(kind, namespace, only_metadata=only_metadata)
        }

    def _check_watch_progress(self, present: dict[Key, Object]) -> None:
        """Detect a silent watch: it must report what one sweep has listed before the next sweep."""
        untold = [key for key, listed in self._listed.items() if key in present and self._told.get(key, 0) < listed]
        self._listed = {key: version(obj) for key, obj in present.items()}
        if not untold:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = time.monotonic()
            _log.warning("watch fell behind", objects=len(untold))

    async def _catch_up(self, present: dict[Key, Object]) -> None:
        """Store what the watch has not reported: it may be slow, disconnected, or silent."""
        missed = [
            key for key, obj in present.items()
            if (known := self._shared.store.get(key)) is None or version(known) < version(obj)
        ]  # fmt: skip
        for key, fresh in await self._read(missed):
            self._shared.store.put(key, fresh)
            self._shared.queue.add(key)
        for kind in PLURALS:
            for key, known in self._shared.store.of_kind(kind):
                if key not in present:
                    self._shared.store.remove(key, known)
                    self._shared.queue.add(key)

    async def _read(self, keys: list[Key]) -> list[tuple[Key, Object]]:
        """Read objects: a few one by one, many by the page."""
        if len(keys) <= SINGLE_READS_MAX:
            found = [(key, await self._shared.kube.get(key.kind, key.namespace, key.name)) for key in keys]
            return [(key, obj) for key, obj in found if obj is not None]
        listed = await self._list(only_metadata=False)
        return [(key, listed[key]) for key in keys if key in listed]

    async def _find_drift(self) -> None:
        """Queue objects that are not as declared; queue sets always, since the broker offers no hash to compare."""
        rows = await resources.task_types(self._shared.database)
        for key, _, manifest in self._shared.store.present(TaskType):
            if rows.get(key.name) != task_type_row(manifest):
                self._shared.queue.add(key)
        for key, _ in self._shared.store.of_kind("QueueSet"):
            self._shared.queue.add(key)

    async def _find_orphans(self, present: dict[Key, Object]) -> None:
        """Release claims whose object was deleted without a watch event."""
        claims = await resources.claims(self._shared.database)
        ours = {
            Key(kind, owner.namespace, owner.name): owner
            for kind, _, owner in claims
            if kind in PLURALS  # a newer release may claim names of further kinds
            and owner.uid not in (LOCAL_UID, EMBEDDED_UID)
            and (self._namespaces == (None,) or owner.namespace in self._namespaces)
        }
        now = time.monotonic()
        missing = {key for key in ours if key not in present}
        self._missing_since = {key: self._missing_since.get(key, now) for key in missing}
        self._shared.metrics.orphans.set(len(missing))
        allowed = max(ORPHANS_MIN, int(ORPHANS_SHARE * len(ours)))
        self.is_flooded = len(missing) > allowed
        if self.is_flooded:
            _log.error("orphan flood suspected", orphans=len(missing), allowed=allowed, claims=len(ours))
            return
        for key in missing:
            if now - self._missing_since[key] < self._shared.pace.orphan_seconds:
                continue
            if await self._shared.kube.get(key.kind, key.namespace, key.name) is not None:
                continue
            owner = ours[key]
            self._shared.store.gone[key] = {
                "metadata": {"uid": owner.uid, "namespace": owner.namespace, "name": owner.name,
                             "generation": owner.generation}
            }  # fmt: skip
            self._shared.queue.add(key)

    def _count(self) -> None:
        for kind in PLURALS:
            ready = [is_ready(obj) for _, obj in self._shared.store.of_kind(kind)]
            self._shared.metrics.objects.labels(kind, "true").set(ready.count(True))
            self._shared.metrics.objects.labels(kind, "false").set(ready.count(False))

"""The reconciler: one function for one object, called for every event, sweep and retry.

The order is deletion, finalizer, effect, status. The reconciler does not look at what has changed and holds no rules:
`dtq.domain.plan` decides, `dtq_reconcile` acts, `conditions` describes the result.
"""

import time
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from pydantic import ValidationError

from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.manifests import QueueSet, TaskType
from dtq.domain.plan import FORCE_DELETE_ANNOTATION, Reason
from dtq.runtime import failpoints
from dtq_kube.errors import Conflict
from dtq_operator import conditions
from dtq_operator.backends import Backends
from dtq_operator.conditions import Condition, is_ready
from dtq_operator.kube import Object
from dtq_operator.reasons import ConditionReason, EventReason
from dtq_operator.shared import Shared
from dtq_operator.store import Key, owner_of, parse

FINALIZER: Final = "dtq.dev/operator"
_UNKNOWN: Final = frozenset({"extra_forbidden", "enum"})
"""Validation errors, by pydantic's names, that no object of this release's definitions can have."""
_NEEDS_FINALIZER: Final = frozenset({"Delete", "DeleteIfEmpty"})

_log = structlog.get_logger(__name__)


class Reconciler:
    """Reconciles one object at a time."""

    def __init__(self, shared: Shared, backends: Backends) -> None:
        self._kube = shared.kube
        self._store = shared.store
        self._backends = backends
        self._events = shared.events
        self._give_up_seconds = shared.settings.delete_give_up_seconds
        """How long a deletion waits for a backend that is down."""
        self._wait_seconds = shared.pace.wait_seconds
        self._metrics = shared.metrics

    async def reconcile(self, key: Key) -> float | None:
        """Reconcile one object; return the seconds until it should be reconciled again, or None."""
        started = time.perf_counter()
        result, again = "ok", None
        try:
            result, again = await self._as_it_is(key)
        except Unavailable as error:
            result, again = "waiting", float(error.retry_after_seconds)
            _log.warning("reconcile delayed", key=str(key), reason=str(error))
        finally:
            self._metrics.reconciles.labels(key.kind, result).inc()
            self._metrics.reconcile_seconds.labels(key.kind).observe(time.perf_counter() - started)
        return again

    async def _as_it_is(self, key: Key) -> tuple[str, float | None]:
        obj = self._store.get(key)
        try:
            if obj is None:
                return await self._gone(key)
            if obj["metadata"].get("deletionTimestamp"):
                return await self._deleting(key, obj)
            return await self._present(key, obj)
        except Conflict:
            # The object was changed or re-created: the watch will report it, and this makes sure that it is reconciled.
            return "conflict", await self._reread(key)

    async def _present(self, key: Key, obj: Object) -> tuple[str, float | None]:
        try:
            manifest = parse(TaskType, obj) if key.kind == "TaskType" else parse(QueueSet, obj)
        except ValidationError as error:
            reason, message = _first_error(error)
            await self._write_status(key, obj, conditions.invalid(key.kind, reason, message), {})
            await self._events.record(key.kind, obj, reason, message, warning=True)
            return "refused", None
        if not await self._finalizer_fits(key, obj, manifest):
            return "ok", 0.0
        effect = await self._backends.apply(key, manifest, owner_of(obj))
        await failpoints.hit("operator.applied")
        if effect.refused_as is Reason.STALE_GENERATION:
            return "conflict", await self._reread(key)
        if effect.repaired and self._was_settled(obj):
            self._metrics.drift.labels(key.kind).inc()
            await self._events.record(key.kind, obj, EventReason.DRIFT_REPAIRED, effect.repaired, warning=True)
        if effect.warning:
            await self._events.record(key.kind, obj, effect.warning[0], effect.warning[1], warning=True)
        await self._write_status(key, obj, effect.conditions, effect.status)
        return effect.result, self._wait_seconds if effect.waits else None

    async def _finalizer_fits(self, key: Key, obj: Object, manifest: TaskType | QueueSet) -> bool:
        """Keep our finalizer exactly while a deletion must reach a backend; return whether it was already right."""
        wanted = manifest.spec.deletion_policy in _NEEDS_FINALIZER
        present: list[str] = list(obj["metadata"].get("finalizers", []))
        if wanted == (FINALIZER in present):
            return True
        if wanted and await self._backends.is_claimed_by_another(key, owner_of(obj)):
            return True  # the loser of a conflict gets only a condition
        others = [finalizer for finalizer in present if finalizer != FINALIZER]
        patched = await self._kube.patch_finalizers(
            key.kind, obj["metadata"], [*others, FINALIZER] if wanted else others
        )
        await failpoints.hit("operator.finalizer_added" if wanted else "operator.finalizer_removed")
        self._store.put(key, patched)
        return False

    async def _deleting(self, key: Key, obj: Object) -> tuple[str, float | None]:
        """Release an object that is being deleted, then remove its finalizer. Nothing more is created for it."""
        if FINALIZER not in obj["metadata"].get("finalizers", []):
            return "gone", None  # it only waits for other finalizers; a DELETED event follows
        force = (obj["metadata"].get("annotations") or {}).get(FORCE_DELETE_ANNOTATION) == key.name
        try:
            refusal = await self._backends.release(key, owner_of(obj), policy=_policy_of(obj), force=force)
        except Rejected as error:
            return await self._deletion_waits(key, obj, ConditionReason.ACCESS_REFUSED, str(error))
        except Unavailable:
            if not self._is_given_up(obj):
                # The driver's message differs between tries, and each message would be another write.
                text = (
                    "Postgres or RabbitMQ, which the deletion needs, does not answer;"
                    f" the operator gives up after {self._give_up_seconds:g} s"
                )
                return await self._deletion_waits(key, obj, ConditionReason.BACKEND_UNAVAILABLE, text)
            message = (
                f"deleted although Postgres or RabbitMQ did not answer for {self._give_up_seconds:g} s:"
                " rows or queues may remain"
            )
            await self._events.record(key.kind, obj, EventReason.EXTERNAL_RESOURCES_ORPHANED, message, warning=True)
            refusal = None
        if refusal is not None:
            return await self._deletion_waits(key, obj, str(refusal.reason), refusal.message)
        await failpoints.hit("operator.released")
        others = [finalizer for finalizer in obj["metadata"]["finalizers"] if finalizer != FINALIZER]
        await self._kube.patch_finalizers(key.kind, obj["metadata"], others)
        await failpoints.hit("operator.finalizer_removed")
        return "gone", None

    async def _deletion_waits(self, key: Key, obj: Object, reason: str, message: str) -> tuple[str, float | None]:
        await self._write_status(key, obj, conditions.deleting(reason, message), {})
        await self._events.record(key.kind, obj, reason, message, warning=True)
        return "waiting", self._wait_seconds

    async def _gone(self, key: Key) -> tuple[str, float | None]:
        """Release an object that is gone: its policy needed no finalizer, or the finalizer was removed by hand."""
        last = self._store.gone.get(key)
        if last is None:
            return "gone", None
        try:
            refusal = await self._backends.release(key, owner_of(last), policy=_policy_of(last), force=False)
        except (Unavailable, Rejected):
            return "waiting", self._wait_seconds
        if refusal is not None:
            _log.warning("release delayed", key=str(key), reason=refusal.message)
        self._store.gone.pop(key, None)
        return "gone", None

    async def _write_status(self, key: Key, obj: Object, found: list[Condition], status: dict[str, Any]) -> None:
        """Write the status if it differs from the current one."""
        generation = obj["metadata"].get("generation", 0)
        former = obj.get("status") or {}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        wanted = {
            "observedGeneration": generation,
            "conditions": conditions.merged(found, former.get("conditions") or [], generation, now),
            **status,
        }
        stale = former.keys() - wanted.keys()
        if not stale and all(former.get(name) == value for name, value in wanted.items() if value is not None):
            return
        patched = await self._kube.patch_status(key.kind, obj["metadata"], wanted | dict.fromkeys(stale))
        await failpoints.hit("operator.status_written")
        self._metrics.status_writes.labels(key.kind).inc()
        self._store.put(key, patched)

    async def _reread(self, key: Key) -> float | None:
        known = self._store.get(key)
        fresh = await self._kube.get(key.kind, key.namespace, key.name)
        if fresh is None:
            if known is not None:
                self._store.remove(key, known)
        else:
            self._store.put(key, fresh)
        return 0.5

    def _is_given_up(self, obj: Object) -> bool:
        since = datetime.fromisoformat(obj["metadata"]["deletionTimestamp"])
        return (datetime.now(UTC) - since).total_seconds() > self._give_up_seconds

    @staticmethod
    def _was_settled(obj: Object) -> bool:
        """Whether this generation was applied before: a difference is then drift, not a change."""
        status = obj.get("status") or {}
        return is_ready(obj) and status.get("observedGeneration") == obj["metadata"].get("generation")


def _first_error(error: ValidationError) -> tuple[str, str]:
    """Return reason and message for an object that the models refuse.

    The API server stores no field and no enum value that the definitions lack: an unknown one was accepted by the
    definitions of a newer release.
    """
    found = error.errors(include_url=False, include_input=False)
    newer = [problem for problem in found if problem["type"] in _UNKNOWN]
    first = (newer or found)[0]
    where = ".".join(map(str, first["loc"]))
    if newer:
        message = f"{where} is unknown to this release: nothing is changed until the operator is updated"
        return Reason.NEWER_RELEASE, message
    return ConditionReason.INVALID_SPEC, f"{where}: {first['msg'].removeprefix('Value error, ')}"


def _policy_of(obj: Object) -> str | None:
    """Return the current deletion policy, which may be newer than the row's; None for an orphan."""
    policy: str | None = (obj.get("spec") or {}).get("deletionPolicy")
    return policy

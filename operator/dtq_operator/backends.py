"""The backends of a reconcile: Postgres and RabbitMQ, each behind a circuit breaker.

Translates the outcome of each call into conditions. While a backend is down, only its breaker calls it; the objects
that need it are parked and reconciled when it is back.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from dtq.broker.admin import connected
from dtq.domain.errors import Rejected, Unavailable, Unmigrated
from dtq.domain.manifests import QueueSet, TaskType
from dtq.domain.owners import Owner
from dtq.domain.plan import Action, Plan, Reason, Refusal
from dtq.domain.topology import work_queue
from dtq_db import catalog
from dtq_db.resources import transaction
from dtq_kube.errors import Conflict
from dtq_operator import conditions
from dtq_operator.breaker import Breaker
from dtq_operator.conditions import USER_ERRORS, Condition
from dtq_operator.reasons import ConditionReason
from dtq_operator.scaling import Hints
from dtq_operator.shared import Shared
from dtq_operator.store import Key
from dtq_reconcile.queue_sets import Reconciled, reconcile_queue_set, release_queue_set
from dtq_reconcile.task_types import reconcile_task_type, release_task_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """The result of applying an object.

    Attributes:
        status: further fields of the status; None removes a field.
        repaired: what was written or declared, for people; empty if nothing was.
        warning: reason and message of an Event to record.
        waits: something else must change first.
    """

    conditions: list[Condition]
    status: dict[str, Any] = field(default_factory=dict)
    result: str = "ok"
    repaired: str = ""
    refused_as: Reason | None = None
    warning: tuple[str, str] | None = None
    waits: bool = False


class Backends:
    """Applies objects to Postgres and RabbitMQ; `hints` and `served` return what else a status shows."""

    def __init__(
        self,
        shared: Shared,
        *,
        hints: Callable[[Key, QueueSet], Awaitable[Hints]],
        served: Callable[[Key], Awaitable[Condition | None]],
    ) -> None:
        self._settings = shared.settings
        self._database = shared.database
        self._hints = hints
        self._served = served
        self._lost: dict[Key, set[str]] = {}
        """Queues that a failed reconcile re-created: the next reconcile reports them."""
        self.postgres: Breaker[Key] = Breaker("postgres", lambda: catalog.revision(shared.database), shared.queue.add)
        self.rabbitmq: Breaker[Key] = Breaker("rabbitmq", self._probe_broker, shared.queue.add)

    async def apply(self, key: Key, manifest: TaskType | QueueSet, owner: Owner) -> Effect:
        """Make the backends hold what an object declares, or park its key while one of them is down."""
        is_type = isinstance(manifest, TaskType)
        backends = (self.postgres,) if is_type else (self.postgres, self.rabbitmq)
        effect = "Synced" if is_type else "TopologyDeclared"
        for breaker in backends:
            if breaker.is_open:
                return self._down(key, breaker, effect)
        try:
            if isinstance(manifest, TaskType):
                return await self._apply_task_type(key, manifest, owner)
            return await self._apply_queue_set(key, manifest, owner)
        except Unavailable:
            for breaker in backends:
                if await breaker.is_down():
                    return self._down(key, breaker, effect)
            raise

    async def _apply_task_type(self, key: Key, manifest: TaskType, owner: Owner) -> Effect:
        plan = await reconcile_task_type(self._database, manifest, owner)
        served = await self._served(key)
        if plan.refusal:
            return _refused(plan.refusal, "Synced")
        schema = manifest.spec.payload_schema
        digest = schema and hashlib.sha256(json.dumps(schema, sort_keys=True).encode()).hexdigest()[:12]
        if served is None:
            raise Conflict(f"{key} is gone")
        is_missed = served.status == "False" and manifest.spec.active
        return Effect(
            conditions=conditions.serving(active=manifest.spec.active, served=served),
            status={"schemaHash": digest},
            repaired=_written(plan),
            warning=(served.reason, served.message) if is_missed else None,
        )

    async def _apply_queue_set(self, key: Key, manifest: QueueSet, owner: Owner) -> Effect:
        lost = self._lost.setdefault(key, set())
        try:
            done = await reconcile_queue_set(self._database, self._settings.rmq_url, manifest, owner, lost=lost)
            self._lost.pop(key, None)
        except Rejected as error:
            warning = (ConditionReason.ACCESS_REFUSED, str(error))
            found = conditions.broker_trouble(*warning)
            return Effect(conditions=found, result="refused", warning=warning, waits=True)
        if done.plan.refusal:
            return _refused(done.plan.refusal, "TopologyDeclared")
        return self._queue_set_effect(manifest, done, await self._hints(key, manifest), await self._moving(key.name))

    async def release(self, key: Key, owner: Owner, *, policy: str | None, force: bool) -> Refusal | None:
        """Release an object as its deletion policy says; return why the deletion must wait, or None.

        Raises:
            Unavailable: a backend that the policy needs does not answer.
            Rejected: RabbitMQ does not permit us to delete.
        """
        self._lost.pop(key, None)
        if key.kind == "TaskType":
            return (await release_task_type(self._database, key.name, owner, policy=policy)).refusal
        url = self._settings.rmq_url
        return (await release_queue_set(self._database, url, key.name, owner, policy=policy, force=force)).refusal

    async def is_claimed_by_another(self, key: Key, owner: Owner) -> bool:
        """Return whether another object owns the name; while Postgres is down, assume so and do nothing."""
        try:
            async with transaction(self._database) as resources:
                claim = await resources.claim("TaskType" if key.kind == "TaskType" else "QueueSet", key.name)
        except Unavailable:
            return True
        return claim is not None and not owner.is_same_object(claim)

    async def _moving(self, queue_set: str) -> dict[str, int]:
        """Return how many tasks wait in removed queues; nothing while that is unknown."""
        try:
            async with transaction(self._database) as resources:
                return await resources.moving(queue_set)
        except Unavailable:
            return {}

    def _queue_set_effect(
        self, manifest: QueueSet, done: Reconciled, hints: Hints, moving: Mapping[str, int]
    ) -> Effect:
        spec = manifest.spec
        warning = None
        if done.mismatched:
            message = "; ".join(f"{name} exists with other arguments" for name in sorted(done.mismatched))
            warning = (
                ConditionReason.ARGUMENT_MISMATCH,
                f"{message}: delete it once it is empty, or declare a queue with a new name",
            )
            found = conditions.broker_trouble(*warning)
        else:
            found = conditions.declared(queues=len(spec.queues), paused=spec.paused, moving=moving)
        desired = hints.desired
        found.append(conditions.scaling(manifest, desired, hints.troubles))
        queues = []
        for queue in spec.queues:
            name = work_queue(spec.namespace, queue.name)
            state = {"name": queue.name, "queueName": name}
            state["state"] = "Mismatch" if name in done.mismatched else "Declared"
            known = {"desiredReplicas": desired[queue.name]} if queue.name in desired else {}
            queues.append(state | known)
        return Effect(
            conditions=found,
            status={"queueCount": len(queues), "queues": queues},
            result="refused" if done.mismatched else "ok",
            repaired=_written(done.plan),
            warning=warning,
            waits=bool(moving),
        )

    def _down(self, key: Key, breaker: Breaker[Key], effect: str) -> Effect:
        breaker.trip(key)
        # The driver's message differs between tries, and each message would be another write.
        if breaker is self.rabbitmq:
            reason = ConditionReason.BROKER_UNREACHABLE
            text = (
                f"no connection to RabbitMQ, vhost {self._settings.rmq_vhost!r}; the operator retries until it connects"
            )
        elif not isinstance(breaker.error, Unmigrated):
            reason = ConditionReason.DATABASE_UNAVAILABLE
            text = "Postgres does not answer; the object is reconciled when it answers again"
        else:
            reason = ConditionReason.DATABASE_NOT_MIGRATED
            text = "the database does not have this release's schema: run `dtq migrate`; the object is reconciled then"
        return Effect(conditions=conditions.unavailable(effect, reason, text), result="waiting", warning=(reason, text))

    async def _probe_broker(self) -> None:
        async with connected(self._settings.rmq_url):
            pass


def _refused(refusal: Refusal, effect: str) -> Effect:
    return Effect(
        conditions=conditions.refused(refusal, effect),
        result="refused",
        refused_as=refusal.reason,
        warning=(str(refusal.reason), refusal.message),
        # A claim may be released, or a queue set created. Only an edit, which the watch reports, ends other refusals.
        waits=refusal.reason not in USER_ERRORS or refusal.reason is Reason.NAME_CONFLICT,
    )


def _written(plan: Plan) -> str:
    acts = [step for step in plan.steps if step.action is not Action.CLAIM]
    return "; ".join(
        f"{step.action} {step.target} {f'({step.detail})' if step.detail else ''}".strip() for step in acts
    )

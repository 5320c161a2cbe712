"""Enqueuing: checks a well-formed request against the catalog and stores its task.

Success is returned only for a task that will run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import msgspec
from uuid_utils.compat import uuid7

from dtq.domain.catalog import Catalog, TypePolicy
from dtq.domain.errors import Problem, Rejected, Unavailable
from dtq.domain.states import TaskStatus
from dtq_api import problems
from dtq_api.auth.policy import Rights, Verb
from dtq_api.catalog import CatalogCache
from dtq_api.group_commit import LARGE_PAYLOAD_BYTES, GroupCommit
from dtq_api.payload_checks import PayloadChecks
from dtq_api.requests import EnqueueRequest
from dtq_db.tasks import ExistingTask, NewTask

QUEUE_SHOWN: Final = 64
"""How much of an unknown queue's name is shown, in characters: twice the longest name that can be declared."""


class Enqueued(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The task that answers a request.

    Attributes:
        replayed: the task was stored for an earlier request with the same idempotency key.
    """

    id: UUID
    status: str
    queue: str
    replayed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueuing:
    """Stores the tasks of requests durably.

    Attributes:
        catalog: the declared types and queue sets.
        checks: checks payloads.
        group_commit: stores and publishes tasks.
        large_group_commit: does so with tasks whose payload is large.
        trouble: returns why a task of a queue set and queue could not run now, or None.
    """

    catalog: CatalogCache
    checks: PayloadChecks
    group_commit: GroupCommit
    large_group_commit: GroupCommit
    trouble: Callable[[str, str], str | None]

    def is_declared(self, type_: str) -> bool:
        """Return whether a type is declared."""
        return type_ in self.catalog.current.types

    async def enqueue(self, request: EnqueueRequest, rights: Rights) -> Enqueued:
        """Store the task of a request.

        Args:
            request: a well-formed request.
            rights: the permissions of its caller, who may enqueue the type.

        Raises:
            Rejected: the type, queue or payload is not allowed, or the idempotency key is taken.
            Unavailable: nothing was stored unless the error says in doubt; the same request may succeed later.
        """
        task = await self.prepared(request, rights)
        is_large = len(task.payload) >= LARGE_PAYLOAD_BYTES
        group_commit = self.large_group_commit if is_large else self.group_commit
        return self.answered(task, await group_commit.store(task), rights)

    async def prepared(self, request: EnqueueRequest, rights: Rights) -> NewTask:
        """Check a request against the catalog, and return the task to store.

        Raises:
            Rejected: the type, queue or payload is not allowed.
            Unavailable: the task could not run now, or could not be checked.
        """
        body = request.body
        policy = await self.catalog.policy(body.type)
        queue = queue_for(body.queue, policy, self.catalog.current)
        rights.require_queue(queue, policy.type)
        payload = _within(policy, bytes(body.payload))
        payload = _within(policy, await self.checks.checked(policy, payload))
        if (reason := self.trouble(policy.queue_set, queue)) is not None:
            raise Unavailable(f"the task could not run: queue set {policy.queue_set!r} is not declared: {reason}")
        return NewTask(
            id=uuid7(),
            type=policy.type,
            queue_set=policy.queue_set,
            queue=queue,
            payload=payload.decode(),
            max_attempts=body.max_attempts or policy.max_attempts,
            idempotency_key=body.idempotency_key,
            run_at=request.run_at,
        )

    @staticmethod
    def answered(task: NewTask, stored: ExistingTask | None, rights: Rights) -> Enqueued:
        """Return the answer to a request whose task was stored, unless `stored` already held its key.

        Raises:
            Rejected: `IdempotencyConflict`.
        """
        if stored is None:
            return Enqueued(id=task.id, status=TaskStatus.ENQUEUED, queue=task.queue, replayed=False)
        if not stored.same:
            # A caller without `read` must not learn the ids of tasks by guessing keys.
            holder = f"task {stored.id}" if rights.may(Verb.READ, task.type) else "a task"
            raise Rejected(
                "IdempotencyConflict",
                f"idempotency_key already belongs to {holder} of this type, which has another payload",
            )
        return Enqueued(id=stored.id, status=stored.status, queue=stored.queue, replayed=True)


def queue_for(asked: str | None, policy: TypePolicy, catalog: Catalog) -> str:
    """Return the queue for a task of a type.

    Raises:
        Rejected: `InactiveType` or `UnknownQueue`.
    """
    if not policy.active:
        raise problems.inactive(policy.type)
    queue = asked or policy.queue
    queue_set = catalog.queue_sets.get(policy.queue_set)
    queues = [declared.name for declared in queue_set.queues] if queue_set else []
    queues += [name for set_name, name in catalog.newer.queues if set_name == policy.queue_set]
    if queue not in queues:
        allowed = ", ".join(queues) or f"none: queue set {policy.queue_set!r} is not declared"
        message = f"queue {queue[:QUEUE_SHOWN]!r} not allowed (one of: {allowed})"
        raise Rejected("UnknownQueue", message, (Problem(path="queue", message=message),))
    return queue


def _within(policy: TypePolicy, payload: bytes) -> bytes:
    """Return a payload that is not larger than its type allows: as received, and as stored."""
    if len(payload) > policy.max_payload_bytes:
        raise Rejected(
            "PayloadTooLarge", f"the payload has {len(payload)} bytes; {policy.type} allows {policy.max_payload_bytes}"
        )
    return payload

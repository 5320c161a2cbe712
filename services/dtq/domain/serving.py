"""Whether a task type is served, decided from what the workers registered.

A worker serves a type if it consumes the type's queue and has a handler for the type. Two workers do not serve a type
together when one only consumes its queue and the other only handles it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class Gap(StrEnum):
    """What is missing for a type to be served."""

    QUEUE_NOT_CONSUMED = "QueueNotConsumed"
    NO_HANDLER = "NoHandler"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGroup:
    """Workers that registered the same prefix, queues and handlers.

    Attributes:
        namespace: prefix of their queues; None stands for any prefix.
        lease_expires_at: when the last of their leases expires or expired.
        silent_seconds: how long ago that was; negative while a lease is in force.
    """

    namespace: str | None
    queues: frozenset[str]
    types: frozenset[str]
    lease_expires_at: datetime
    silent_seconds: float

    def consumes(self, namespace: str | None, queue: str) -> bool:
        """Return whether the workers consume a queue; None means that the prefix is unknown."""
        return queue in self.queues and (None in (namespace, self.namespace) or namespace == self.namespace)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """Whether a type is served.

    Attributes:
        gap: what is missing; None if the type is served.
        since: when the last lease of a worker that served the type expired; None if the type is served, or was not
            served for a day.
    """

    gap: Gap | None = None
    since: datetime | None = None


def served(
    type_: str, namespace: str | None, queue: str, groups: Iterable[WorkerGroup], *, grace_seconds: float
) -> Served:
    """Return whether a type is served by a worker whose lease is in force, or expired less than `grace_seconds` ago."""
    consumers = [group for group in groups if group.consumes(namespace, queue)]
    servers = [group for group in consumers if type_ in group.types]
    if any(group.silent_seconds < grace_seconds for group in servers):
        return Served()
    since = max((group.lease_expires_at for group in servers), default=None)
    is_consumed = any(group.silent_seconds < grace_seconds for group in consumers)
    return Served(gap=Gap.NO_HANDLER if is_consumed else Gap.QUEUE_NOT_CONSUMED, since=since)

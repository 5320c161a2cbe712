"""The catalog: the declared task types and queue sets, as the API and the workers read them from Postgres.

A catalog is never changed in place: a new one replaces it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dtq.domain.manifests import QueueSetSpec
from dtq.domain.stored import Newer


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePolicy:
    """What a task type allows."""

    type: str
    active: bool
    queue_set: str
    queue: str
    max_attempts: int
    max_payload_bytes: int
    payload_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """Everything declared, at one revision.

    Attributes:
        types: by type name.
        queue_sets: by name of the set.
        newer: the types and queues that only a newer release understands.
    """

    revision: int = 0
    types: Mapping[str, TypePolicy] = field(default_factory=dict)
    queue_sets: Mapping[str, QueueSetSpec] = field(default_factory=dict)
    newer: Newer = field(default_factory=Newer)

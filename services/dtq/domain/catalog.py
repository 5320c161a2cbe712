"""The catalog: what is declared, as the data plane sees it.

Owns the values that API and worker read from Postgres. Must never be changed in place: a new one replaces it.
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
        newer: what of it only a newer release understands.
    """

    revision: int = 0
    types: Mapping[str, TypePolicy] = field(default_factory=dict)
    queue_sets: Mapping[str, QueueSetSpec] = field(default_factory=dict)
    newer: Newer = field(default_factory=Newer)

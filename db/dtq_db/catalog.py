"""The catalog as Postgres holds it: task types, queue sets and their queues.

Owns reading it. Must never write: `dtq_db.resources` does, for the operator and `dtq apply`.
"""

import json
from typing import Any, Final

import asyncpg

from dtq.domain.catalog import Catalog, TypePolicy
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.serving import WorkerGroup
from dtq_db.connections import Database
from dtq_db.queries import query

TYPES_PAGE: Final = 200
"""Most task types read by one statement: parsing their schemas takes some milliseconds."""


async def revision(database: Database) -> int:
    """Return the revision, which moves with every change.

    Raises:
        Unavailable: the database does not answer.
    """
    (row,) = await database.fetch(query("catalog_revision"))
    return int(row["revision"])


async def load(database: Database, known: Catalog) -> Catalog:
    """Return everything declared, reading what has changed since `known`.

    Raises:
        Unavailable: the database does not answer.
    """
    # The revision is read first: what changes meanwhile is read again at the next look.
    (now,) = await database.fetch(query("catalog_revision"))
    if now["revision"] == known.revision:
        return known
    types = dict(known.types)
    read = known.revision
    # In pages, so that thousands of types do not hold the event loop.
    while rows := await database.fetch(query("catalog_types"), read, TYPES_PAGE):
        types |= {row["type"]: _policy(row) for row in rows}
        read = rows[-1]["revision"]
    if now["types_deleted_at"] > known.revision:
        names = {row["type"] for row in await database.fetch(query("task_type_names"))}
        types = {name: policy for name, policy in types.items() if name in names}
    changed = now["queue_sets_changed_at"] > known.revision
    return Catalog(
        revision=now["revision"],
        types=types,
        queue_sets=await queue_sets(database) if changed else known.queue_sets,
    )


async def queue_sets(database: Database) -> dict[str, QueueSetSpec]:
    """Return every queue set, by name.

    Raises:
        Unavailable: the database does not answer.
    """
    return {row["name"]: queue_set_of(row) for row in await database.fetch(query("catalog_queue_sets"))}


async def running_counts(database: Database) -> dict[str, tuple[int, int]]:
    """Return handlers running now and the slots of one worker, by `queue set/queue`, at most one renewal old.

    Raises:
        Unavailable: the database does not answer.
    """
    rows = await database.fetch(query("worker_running_counts"))
    return {row["key"]: (row["running"], row["concurrency"]) for row in rows}


async def worker_groups(database: Database) -> list[WorkerGroup]:
    """Return the workers of the last day, those that registered alike as one.

    Raises:
        Unavailable: the database does not answer.
    """
    return [
        WorkerGroup(
            namespace=row["namespace"],
            queues=frozenset(row["queues"]),
            types=frozenset(row["types"]),
            lease_expires_at=row["lease_expires_at"],
            silent_seconds=row["silent_seconds"],
        )
        for row in await database.fetch(query("worker_groups"))
    ]


async def prefixes(database: Database) -> dict[str, str]:
    """Return the prefix of every queue set, by its name.

    Raises:
        Unavailable: the database does not answer.
    """
    return {row["name"]: row["namespace"] for row in await database.fetch(query("queue_set_prefixes"))}


def _policy(row: asyncpg.Record) -> TypePolicy:
    schema = row["payload_schema"]
    return TypePolicy(
        type=row["type"],
        active=row["active"],
        queue_set=row["queue_set"],
        queue=row["default_queue"],
        max_attempts=row["default_max_attempts"],
        max_payload_bytes=row["max_payload_bytes"],
        payload_schema=None if schema is None else json.loads(schema),
    )


def queue_set_of(row: asyncpg.Record) -> QueueSetSpec:
    """Return the spec that a queue set's rows hold."""
    document: dict[str, Any] = {
        "namespace": row["namespace"],
        "queues": [
            {name: value for name, value in queue.items() if value is not None} for queue in json.loads(row["queues"])
        ],
        "retry": {"delaysSeconds": list(row["retry_delays_seconds"])},
        "deadLetter": {"enabled": row["dead_letter"]},
        "paused": row["paused"],
        "deletionPolicy": row["deletion_policy"],
    }
    if row["removal_queue"] is not None:
        document["onRemoval"] = {"policy": "MoveTo", "queue": row["removal_queue"]}
    return QueueSetSpec.model_validate(document)

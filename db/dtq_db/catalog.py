"""The catalog as Postgres holds it: task types, queue sets and their queues.

Owns reading it. Must never write: `dtq_db.resources` does, for the operator and `dtq apply`.
"""

import json
from typing import Any

import asyncpg

from dtq.domain.catalog import Catalog, TypePolicy
from dtq.domain.manifests import QueueSetSpec
from dtq_db.connections import Database
from dtq_db.queries import query


async def revision(database: Database) -> int:
    """Return the revision, which moves with every change.

    Raises:
        Unavailable: the database does not answer.
    """
    (row,) = await database.fetch(query("catalog_revision"))
    return int(row["revision"])


async def load(database: Database) -> Catalog:
    """Return everything declared.

    Raises:
        Unavailable: the database does not answer.
    """
    # The revision is read first: what changes meanwhile is read again at the next look.
    current = await revision(database)
    types = await database.fetch(query("catalog_types"))
    queue_sets = await database.fetch(query("catalog_queue_sets"))
    return Catalog(
        revision=current,
        types={row["type"]: _policy(row) for row in types},
        queue_sets={row["name"]: queue_set_of(row) for row in queue_sets},
    )


async def running_counts(database: Database) -> dict[str, tuple[int, int]]:
    """Return handlers running now and the slots of one worker, by `queue set/queue`, at most one renewal old.

    Raises:
        Unavailable: the database does not answer.
    """
    rows = await database.fetch(query("worker_running_counts"))
    return {row["key"]: (row["running"], row["concurrency"]) for row in rows}


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
        "vhost": row["vhost"],
        "queues": [
            {name: value for name, value in queue.items() if value is not None} for queue in json.loads(row["queues"])
        ],
        "retry": {"delaysSeconds": list(row["retry_delays_seconds"])},
        "deadLetter": {"enabled": row["dead_letter"]},
        "paused": row["paused"],
        "deletionPolicy": row["deletion_policy"],
    }
    return QueueSetSpec.model_validate(document)

"""Reads the catalog from Postgres: task types, queue sets and their queues.

`dtq_db.resources` writes it, for the operator and `dtq apply`.
Every function raises `Unavailable` when the database does not answer.
"""

import json
from collections.abc import Collection, Mapping
from typing import Final

import asyncpg
import structlog

from dtq.domain.catalog import Catalog, TypePolicy
from dtq.domain.manifests import QueueSetSpec
from dtq.domain.serving import WorkerGroup
from dtq.domain.stored import Newer, NewerRelease, StoredQueueSet, check_limits, queue_set_of
from dtq_db.attempts import parse_backoff
from dtq_db.connections import Database
from dtq_db.queries import query

TYPES_PAGE: Final = 200
"""Most task types read by one statement: parsing their schemas takes some milliseconds."""

_log = structlog.get_logger(__name__)


async def revision(database: Database) -> int:
    """Return the revision, which grows with every change."""
    (row,) = await database.fetch(query("catalog_revision"))
    return int(row["revision"])


async def load(database: Database, known: Catalog) -> Catalog:
    """Return the whole catalog, reading only what has changed since `known`."""
    # The revision is read first: changes made meanwhile are read again next time.
    (now,) = await database.fetch(query("catalog_revision"))
    if now["revision"] == known.revision:
        return known
    types = dict(known.types)
    read = known.revision
    # In pages, so that thousands of types do not block the event loop.
    while rows := await database.fetch(query("catalog_types"), read, TYPES_PAGE):
        types |= {row["type"]: _policy(row) for row in rows}
        read = rows[-1]["revision"]
    if now["types_deleted_at"] > known.revision:
        names = {row["type"] for row in await database.fetch(query("task_type_names"))}
        types = {name: policy for name, policy in types.items() if name in names}
    queue_sets, newer = known.queue_sets, known.newer
    if now["queue_sets_changed_at"] > known.revision:
        stored = await stored_queue_sets(database)
        queue_sets, newer = {name: found.spec for name, found in stored.items()}, newer_of(stored)
    return Catalog(revision=now["revision"], types=types, queue_sets=queue_sets, newer=newer)


async def stored_queue_sets(database: Database) -> dict[str, StoredQueueSet]:
    """Return the rows of every queue set, by name."""
    rows = await database.fetch(query("catalog_queue_sets"))
    return {row["name"]: queue_set_of(dict(row), json.loads(row["queues"])) for row in rows}


async def queue_sets(database: Database) -> dict[str, QueueSetSpec]:
    """Return every queue set, by name, as far as this release understands it."""
    return {name: found.spec for name, found in (await stored_queue_sets(database)).items()}


async def newer_types(database: Database, types: Collection[str]) -> dict[str, str]:
    """Return which of these types only a newer release can run, and why."""
    rows = await database.fetch(query("catalog_policies"), sorted(types))
    return {row["type"]: reason for row in rows if (reason := _newer(row))}


def newer_of(stored: Mapping[str, StoredQueueSet]) -> Newer:
    """Return the queues that only a newer release understands."""
    return Newer(
        queues={(name, queue): reason for name, found in stored.items() for queue, reason in found.queues.items()},
        scaling={(name, queue): reason for name, found in stored.items() for queue, reason in found.scaling.items()},
    )


def tell_newer(newer: Newer, before: Newer) -> None:
    """Log types and queues that only a newer release understands, once."""
    for type_ in newer.types.keys() - before.types.keys():
        _log.warning("newer task type found", type=type_, reason=newer.types[type_])
    for kind in ("queues", "scaling"):
        for key in getattr(newer, kind).keys() - getattr(before, kind).keys():
            queue_set, queue = key
            reason = getattr(newer, kind)[key]
            _log.warning("newer queue found", queue_set=queue_set, queue=queue, reason=reason)


async def worker_groups(database: Database) -> list[WorkerGroup]:
    """Return the workers of the last day, grouped by what they registered."""
    return [
        WorkerGroup(**dict(row) | {"queues": frozenset(row["queues"]), "types": frozenset(row["types"])})
        for row in await database.fetch(query("worker_groups"))
    ]


async def prefixes(database: Database) -> dict[str, str]:
    """Return the prefix of every queue set, by its name."""
    return {row["name"]: row["namespace"] for row in await database.fetch(query("queue_set_prefixes"))}


def _policy(row: asyncpg.Record) -> TypePolicy:
    columns = dict(row)
    del columns["revision"]
    schema = columns.pop("payload_schema")
    return TypePolicy(payload_schema=schema and json.loads(schema), **columns)


def _newer(row: asyncpg.Record) -> str | None:
    """Return why only a newer release can run tasks of this type, or None."""
    try:
        parse_backoff(row["backoff"])
        check_limits(*(value and json.loads(value) for value in (row["concurrency"], row["rate_limit"])))
    except NewerRelease as error:
        return str(error)
    return None

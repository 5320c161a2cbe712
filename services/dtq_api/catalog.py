"""The API's cache of the catalog: read from Postgres, and kept fresh.

A stale cache cannot accept a task of an inactive type: the SQL of an enqueue checks the type again.
"""

import asyncio
import time
from typing import Final

import structlog

from dtq.domain.catalog import Catalog, TypePolicy
from dtq.domain.errors import Rejected, Unavailable
from dtq.domain.queue_sets import QueueSets
from dtq_db import catalog as rows
from dtq_db.connections import Database

REFRESH_SECONDS: Final = 1.0
"""How often the revision is checked, in seconds."""
MISS_SECONDS: Final = 0.2
"""Shortest time between two checks because of unknown types, in seconds: clients must not poll Postgres through us."""

_log = structlog.get_logger(__name__)


class CatalogCache:
    """The cached catalog; `refresh` replaces it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._looked_at = float("-inf")
        self._trouble: Unavailable | None = None
        self._looking = asyncio.Lock()
        self._refreshing = asyncio.Lock()
        self.current = Catalog()
        self.queue_sets = QueueSets()
        """The queue sets of `current`."""

    async def refresh(self) -> bool:
        """Read the catalog if it has changed; return False: there is never more to do at once.

        Raises:
            Unavailable: the database does not answer; the cached catalog stays.
        """
        async with self._refreshing:
            found = await rows.load(self._database, self.current)
            if found is not self.current:
                rows.tell_newer(found.newer, self.current.newer)
                self.current = found
                self.queue_sets.replace(found.queue_sets)
                _log.info("catalog read", revision=self.current.revision, types=len(self.current.types))
        return False

    async def policy(self, type_: str) -> TypePolicy:
        """Return what a type allows.

        Raises:
            Rejected: `UnknownType`.
            Unavailable: the type is unknown and the database does not answer.
        """
        policy = self.current.types.get(type_)
        if policy is None:
            await self._look()
            policy = self.current.types.get(type_)
        if policy is None:
            raise Rejected("UnknownType", f"unknown type {type_!r}: declare it with `kubectl apply` or `dtq apply`")
        return policy

    async def _look(self) -> None:
        """Check now, in one query for all requests that miss a type; a check just made counts for all of them."""
        async with self._looking:
            if time.monotonic() - self._looked_at > MISS_SECONDS:
                try:
                    await self.refresh()
                    self._trouble = None
                except Unavailable as error:
                    self._trouble = error
                self._looked_at = time.monotonic()
            if self._trouble is not None:
                raise Unavailable(str(self._trouble)) from self._trouble

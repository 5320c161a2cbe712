"""Before anything is declared there is one queue set, called as the one that will be declared."""

import pytest

from dtq.domain.errors import Rejected
from dtq.runtime.environment import load
from dtq.runtime.settings import AllSettings
from dtq_db import catalog
from dtq_db.connections import Database
from dtq_reconcile.embedded import ensure_default


async def test_the_embedded_default_has_the_name_that_is_to_take_it_over(dsn: str) -> None:
    settings = load(_environ(dsn, DTQ_QUEUE_SET="shop", RMQ_NAMESPACE="acme"), AllSettings)
    async with Database(dsn, name="test") as database:
        await ensure_default(database, settings)
        found = await catalog.queue_sets(database)
    assert {name: spec.namespace for name, spec in found.items()} == {"shop": "acme"}


def test_a_name_that_no_object_can_have_is_refused() -> None:
    with pytest.raises(Rejected, match="DTQ_QUEUE_SET"):
        load(_environ("postgresql://x@x/x", DTQ_QUEUE_SET="No Name"), AllSettings)


def _environ(dsn: str, **more: str) -> dict[str, str]:
    return {"DB_DSN": dsn, "RMQ_USER": "x", "RMQ_PASS": "x", "RMQ_HOST": "127.0.0.1"} | more

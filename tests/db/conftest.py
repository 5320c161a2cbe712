"""Fixtures of the database suite: worlds on a fresh, migrated database."""

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio

from dtq_db.connections import connect
from tests.db.world import World

MakeWorld = Callable[[], Awaitable[World]]


@pytest_asyncio.fixture(loop_scope="session")
async def another(dsn: str) -> AsyncIterator[MakeWorld]:
    """A factory of further connections to the test's database, as a second process would have."""
    worlds: list[World] = []

    async def make() -> World:
        worlds.append(World(await connect(dsn, name="test")))
        return worlds[-1]

    yield make
    for world in worlds:
        world.sql.terminate()


@pytest_asyncio.fixture(loop_scope="session")
async def world(another: MakeWorld) -> World:
    """A connection to a fresh database in which one task type and its queue set are declared."""
    world = await another()
    await world.declare()
    return world

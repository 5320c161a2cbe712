"""Every failpoint of the data plane is walked with every action, over real processes; the checker judges.

The short walk kills at each of them; FAILPOINTS=all fails, hangs and dawdles there too.
"""

import os
from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio

from dtq.runtime.failpoints import NAMES
from tests.faults.invariants.index import Limits
from tests.faults.stage import Servers, stage
from tests.faults.triggers import GROUPS, POINTS
from tests.faults.walk import Victim, Walk
from tests.support.addresses import PostgresService, RabbitMQService

ACTIONS: Final = ("kill9", "raise", "unavailable", "hang", "slow(0.3)")
SHORT: Final = ("kill9",)
CHOSEN: Final = ACTIONS if os.environ.get("FAILPOINTS") == "all" else SHORT
HARMLESS: Final = ("unavailable", "slow(0.3)")
"""Actions after which a process goes on."""
OPERATOR: Final = ("operator.", "reconcile.")
"""Walked by the operator's own suite."""
SECONDS: Final = 900
"""Longest chain of points, in seconds, on a machine that does other things too."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def walk(
    postgres_server: PostgresService,
    rabbitmq_server: RabbitMQService,
    template_database: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Walk]:
    servers = Servers(postgres=postgres_server, rabbitmq=rabbitmq_server, template=template_database)
    async with stage(servers, tmp_path_factory.mktemp("walk")) as walk:
        await walk.healthy_worker()
        yield walk


def test_every_failpoint_has_a_way_there() -> None:
    assert set(POINTS) == {name for name in NAMES if not name.startswith(OPERATOR)}
    assert sorted(POINTS) == sorted(name for group in GROUPS.values() for name in group)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("action", CHOSEN)
async def test_nothing_is_lost_at_any_step(walk: Walk, action: str, group: str) -> None:
    await walk.begin()
    names = [name for name in GROUPS[group] if action in POINTS[name].actions]
    together = [name for name in names if action in HARMLESS and POINTS[name].shares]
    if together:
        await visit_together(walk, together, action)
    for name in names:
        if name not in together:
            await visit(walk, name, action)
    await walk.quiet()
    for victim in walk.victims:
        if not victim.ended:
            # What hangs has been given up by now; the test does not wait for it.
            await walk.end(victim, told=False)
    if group == "alone":
        await only_what_ran_alone_is_charged(walk, action)
    verdict = await walk.judge(f"{action}-{group}", Limits(bugs_injected=action == "raise"))
    assert verdict.is_valid, str(verdict)


async def only_what_ran_alone_is_charged(walk: Walk, action: str) -> None:
    """A suspect is charged for a lost worker only after it is recorded as running alone."""
    charged = await walk.sql.fetch(
        "SELECT crashes, attempts - coalesce(uncounted_attempts, 0) AS counted FROM tasks"
        " WHERE crashes > 0 OR (status = 'SUCCEEDED' AND attempts - coalesce(uncounted_attempts, 0) > 1)"
    )
    lost_alone = 1 if action in ("kill9", "raise") else 0
    assert [tuple(row) for row in charged] == [(1, 2)] * lost_alone


async def visit(walk: Walk, name: str, action: str) -> None:
    """Bring a victim to a failpoint, and check what it does there."""
    point = POINTS[name]
    if point.before is not None:
        await point.before(walk)
    armed = ";".join(filter(None, (f"{name}={action}@1", point.also)))
    victim = await walk.start(point.role, armed, ready=not point.at_boot, point=name)
    await walk.reach(victim, name, point.trigger)
    ends = action == "kill9" or (action == "raise" and not point.survives_bugs)
    if ends:
        code = await walk.has_ended(victim)
        assert (code == -9) if action == "kill9" else (code > 0), f"{name}: ended with {code}"
    if ends or (action == "hang" and point.stops):
        await walk.end(victim, told=False)
    elif action != "hang":
        await _goes_on(walk, victim)


async def visit_together(walk: Walk, names: list[str], action: str) -> None:
    """Bring one victim, which survives each, to several failpoints."""
    victim = await walk.start(POINTS[names[0]].role, ";".join(f"{name}={action}@1" for name in names))
    for name in names:
        point = POINTS[name]
        if point.before is not None:
            await point.before(walk)
        await walk.reach(victim, name, point.trigger)
    await _goes_on(walk, victim)


async def _goes_on(walk: Walk, victim: Victim) -> None:
    """A process that is not broken permanently ends with 0 after SIGTERM."""
    assert await walk.end(victim, told=True) == 0, victim.process.log.read_text()[-3000:]

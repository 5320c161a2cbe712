"""Failpoints: free when off, what they do when armed, and that names and steps agree."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dtq.domain.errors import Unavailable
from dtq.runtime import failpoints
from dtq.runtime.failpoints import NAMES, Failpoint, InjectedBug, parse

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    yield
    failpoints.hit = failpoints._pass


def test_every_declared_failpoint_is_reached_somewhere_and_no_other_is() -> None:
    sources = [path for root in ("services", "operator", "db") for path in (REPOSITORY / root).rglob("*.py")]
    used = {
        name
        for path in sources
        for call in re.findall(r"failpoints\.hit\(([^)]*)\)", path.read_text())
        if path.name != "failpoints.py"
        for name in re.findall(r'"([a-z_.]+)"', call)
    }
    assert used == NAMES.keys()


def test_nothing_happens_unless_it_is_armed() -> None:
    failpoints.arm("")
    assert failpoints.hit is failpoints._pass


def test_a_list_is_read() -> None:
    assert parse(" claim.taken=kill9@2; relay.picked=slow(0.5) ;") == [
        Failpoint(name="claim.taken", action="kill9", nth=2),
        Failpoint(name="relay.picked", action="slow", seconds=0.5),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("claim.taken", "is not name=action"),
        ("claim.taken=kill", "is not name=action"),
        ("claim.taken=kill9@0", "is not name=action"),
        ("claim.taken=slow", "is not name=action"),
        ("claim.taken=slow(-1)", "is not name=action"),
        ("claim.won=kill9", "is not a failpoint"),
    ],
)
def test_a_list_that_cannot_be_meant_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text)


async def test_only_the_nth_time_counts() -> None:
    failpoints.arm("claim.taken=raise@2")
    await failpoints.hit("claim.taken")
    with pytest.raises(InjectedBug, match=r"claim\.taken"):
        await failpoints.hit("claim.taken")
    await failpoints.hit("claim.taken")


async def test_a_service_can_be_made_unavailable_each_time() -> None:
    failpoints.arm("relay.picked=unavailable")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await failpoints.hit("relay.picked")


async def test_a_hang_lasts_until_it_is_cancelled() -> None:
    failpoints.arm("relay.picked=hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await failpoints.hit("relay.picked")

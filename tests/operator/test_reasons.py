"""Every reason of every condition is reached, and is explained in the documentation."""

import re
from pathlib import Path

import pytest

from dtq_operator.conditions import USER_ERRORS
from dtq_operator.reasons import CONDITION_REASONS, Happened
from tests.operator.conftest import Start
from tests.operator.door import Door
from tests.operator.scenarios import Scenario, Stage, scenarios
from tests.operator.world import World
from tests.support.kube_proxy import KubeProxy

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "operator.md"
SCENARIOS = scenarios()
FIRST = {scenario: condition for condition, scenario in reversed(SCENARIOS.items())}


def test_each_reason_has_a_scenario_that_reaches_it() -> None:
    assert {reason for _, _, reason in SCENARIOS} == CONDITION_REASONS


def test_each_reason_is_explained_in_the_documentation() -> None:
    _, _, section = DOCUMENTED.read_text().partition("## What the status says\n")
    rows = set(re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE))
    assert rows == CONDITION_REASONS | set(map(str, Happened))


@pytest.mark.parametrize("scenario", FIRST, ids=lambda scenario: scenario.__name__)
async def test_reason(
    scenario: Scenario, proxy: KubeProxy, postgres_door: Door, rabbitmq_door: Door, world: World, start: Start
) -> None:
    stage = Stage(world=world, start=start, postgres=postgres_door, rabbitmq=rabbitmq_door, proxy=proxy)
    obj = await scenario(stage)
    for (type_, status, reason), one in SCENARIOS.items():
        if one is not scenario:
            continue
        found = await world.until(obj, type_, status, reason)
        conditions = {each["type"]: each for each in found["status"]["conditions"]}
        if conditions["Ready"]["status"] == "False":
            assert len(conditions["Ready"]["message"]) > 20, "a reason without a word of what to do"
        if reason in map(str, USER_ERRORS):
            assert conditions["Stalled"]["status"] == "True"
            assert conditions["Reconciling"]["status"] == "False"

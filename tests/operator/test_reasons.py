"""Every reason of every condition is reached, is explained in the docs, and says what `golden/reasons.txt` has.

`WRITE_GOLDEN=1 pytest tests/operator/test_reasons.py` rewrites the golden file.
"""

import re
from pathlib import Path

import pytest

from dtq_operator.conditions import USER_ERRORS
from dtq_operator.reasons import CONDITION_REASONS, EventReason
from tests.operator import golden
from tests.operator.conftest import Start
from tests.operator.scenarios import Scenario, Stage, scenarios
from tests.operator.switchable_proxy import SwitchableProxy
from tests.operator.world import World
from tests.support.kube_api import Object
from tests.support.kube_proxy import KubeProxy
from tests.support.waiting import eventually

DOCUMENTED = Path(__file__).resolve().parents[2] / "docs" / "operator.md"
GOLDEN_SECONDS = 5.0
SCENARIOS = scenarios()
FIRST = {scenario: condition for condition, scenario in reversed(SCENARIOS.items())}


def test_each_reason_has_a_scenario_that_reaches_it() -> None:
    assert {reason for _, _, reason in SCENARIOS} == CONDITION_REASONS | set(map(str, EventReason))


def test_each_reason_is_explained_in_the_documentation() -> None:
    _, _, section = DOCUMENTED.read_text().partition("## What the status says\n")
    rows = set(re.findall(r"^\| `(\w+)` \|", section.partition("\n## ")[0], re.MULTILINE))
    assert rows == CONDITION_REASONS | set(map(str, EventReason))


def test_the_golden_file_has_a_section_for_each_scenario() -> None:
    assert golden.sections().keys() == {scenario.__name__ for scenario in FIRST}


@pytest.mark.parametrize("scenario", FIRST, ids=lambda scenario: scenario.__name__)
async def test_reason(
    scenario: Scenario,
    proxy: KubeProxy,
    postgres_proxy: SwitchableProxy,
    rabbitmq_proxy: SwitchableProxy,
    world: World,
    start: Start,
) -> None:
    stage = Stage(world=world, start=start, postgres=postgres_proxy, rabbitmq=rabbitmq_proxy, proxy=proxy)
    obj = await scenario(stage)
    reached = {condition for condition, other in SCENARIOS.items() if other is scenario}
    for type_, status, reason in reached:
        if type_ == "Event":
            await world.until_event(obj, reason)
            continue
        found = await world.until(obj, type_, status, reason)
        conditions = {each["type"]: each for each in found["status"]["conditions"]}
        if conditions["Ready"]["status"] == "False":
            assert len(conditions["Ready"]["message"]) > 20, "a reason without a word of what to do"
        if reason in map(str, USER_ERRORS):
            assert conditions["Stalled"]["status"] == "True"
            assert conditions["Reconciling"]["status"] == "False"
    await _says_as_before(world, obj, reached, scenario.__name__)


async def _says_as_before(world: World, obj: Object, reached: set[tuple[str, str, str]], scenario: str) -> None:
    """Compare with the golden file; an Event may come a little later than the condition."""
    text = ""

    async def says() -> bool:
        nonlocal text
        text = golden.said(await world.get(obj), reached, await world.events(obj))
        return text == golden.sections().get(scenario)

    try:
        await eventually(says, "it says what the golden file has", GOLDEN_SECONDS)
    except AssertionError:
        if golden.is_rewritten():
            golden.write(scenario, text)
        else:
            assert text == golden.sections().get(scenario, "")

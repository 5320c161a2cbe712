"""The suite itself is tried: each mutant must be caught, and the same scene on sound code must be found in order.

Run by `make faults-selftest`; not part of `make test`, since what it tests is the suite.
"""

from pathlib import Path

import pytest

from tests.faults.invariants.index import Limits
from tests.faults.mutants import MUTANTS, REST_SECONDS, SOON_SECONDS, Mutant, metrics_of
from tests.faults.stage import Servers, stage
from tests.support.addresses import PostgresService, RabbitMQService

SECONDS = 600
"""Longest scene, in seconds, on a machine that does other things too."""


@pytest.fixture
def servers(postgres_server: PostgresService, rabbitmq_server: RabbitMQService, template_database: str) -> Servers:
    return Servers(postgres=postgres_server, rabbitmq=rabbitmq_server, template=template_database)


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", MUTANTS)
async def test_sound_code_is_found_in_order(servers: Servers, tmp_path: Path, name: str) -> None:
    problems = await play(servers, tmp_path, MUTANTS[name], mutated=False)
    assert problems == []


@pytest.mark.timeout(SECONDS)
@pytest.mark.parametrize("name", MUTANTS)
async def test_a_mutant_is_caught(servers: Servers, tmp_path: Path, name: str) -> None:
    problems = await play(servers, tmp_path, MUTANTS[name], mutated=True)
    assert problems, f"the mutant {name} survived"


async def play(servers: Servers, folder: Path, mutant: Mutant, *, mutated: bool) -> list[str]:
    """Play a mutant's scene; return what the checker finds."""
    (folder / "stage").mkdir()
    environ = mutant.copy_to(folder / "mutant") if mutated else {}
    finish = mutant.finish if mutated else None
    async with stage(servers, folder / "stage", environ=environ, finish=finish) as walk:
        await walk.begin()
        await mutant.scene(walk)
        await walk.rest(REST_SECONDS)
        verdict = await walk.judge("scene", Limits(waiting_seconds=SOON_SECONDS), metrics=await metrics_of(walk))
    return verdict.problems

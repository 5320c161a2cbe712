"""Schedules as data: a seed says everything, and what fails can be made smaller."""

from dataclasses import replace

import pytest

from tests.faults.schedule import GROUPS, KINDS, LINKS, PROCESSES, Schedule, generate, smaller


@pytest.mark.parametrize("seed", range(50))
def test_a_seed_is_one_schedule_for_ever(seed: int) -> None:
    assert generate(seed) == generate(seed)


def test_consecutive_seeds_meet_every_kind_of_fault() -> None:
    for first in (0, 1000):
        seen = {fault.kind for seed in range(first, first + len(KINDS)) for fault in generate(seed).faults}
        assert seen == set(KINDS)


@pytest.mark.parametrize("seed", range(300))
def test_faults_are_few_bounded_and_aimed_at_something_that_exists(seed: int) -> None:
    schedule = generate(seed)
    assert 1 <= len(schedule.faults) <= 4
    assert schedule.seconds <= 25
    assert str(schedule).startswith(f"seed {seed}\n")
    for fault in schedule.faults:
        if fault.kind.startswith("net-"):
            sides = [set(part) for part in zip(*(link.split(".") for link in LINKS), strict=True)]
            assert all(part in {*side, "*"} for part, side in zip(fault.target.split("."), sides, strict=True))
        elif fault.target:
            assert fault.target in {*PROCESSES, *GROUPS}


@pytest.mark.parametrize("seed", range(100))
def test_every_smaller_schedule_is_really_smaller_and_keeps_its_seed(seed: int) -> None:
    def size(schedule: Schedule) -> tuple[int, float]:
        return len(schedule.faults), sum(fault.seconds for fault in schedule.faults)

    schedule = generate(seed)
    for variant in smaller(schedule):
        assert variant.seed == seed
        assert size(variant) < size(schedule)
        assert variant.faults


def test_a_single_instant_fault_cannot_be_made_smaller() -> None:
    fault = replace(generate(0).faults[0], seconds=0.0)
    assert list(smaller(Schedule(seed=0, faults=(fault,)))) == []

"""Clocks that are wrong on purpose: the wall clock is, and what time-outs are made of is not."""

import os
import subprocess
import sys
import time

import pytest

from tests.faults.schedule import CLOCK_SECONDS
from tests.faults.world import clock_environ

SLACK_SECONDS = 60.0
TELL = "import time; print(time.time(), time.monotonic())"


@pytest.mark.parametrize("offset_seconds", [-CLOCK_SECONDS, CLOCK_SECONDS])
def test_a_wrong_clock_moves_the_wall_and_leaves_the_monotonic_time_of_time_outs(offset_seconds: float) -> None:
    told = subprocess.run(
        [sys.executable, "-c", TELL],
        env=dict(os.environ) | clock_environ(offset_seconds),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    wall, monotonic = map(float, told.split())
    assert abs(wall - time.time() - offset_seconds) < SLACK_SECONDS
    assert abs(monotonic - time.monotonic()) < SLACK_SECONDS

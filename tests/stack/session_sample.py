"""Run by test_session.py in a test session of its own; not collected otherwise."""

import os
from pathlib import Path

import pytest

from tests.support.addresses import PostgresService

RECORD = Path(os.environ["DTQ_SAMPLE_RECORD"])


@pytest.mark.parametrize("number", range(4))
def test_sees_the_server(number: int, postgres_server: PostgresService) -> None:
    with RECORD.open("a") as record:
        record.write(f"{number} {os.environ.get('PYTEST_XDIST_WORKER', 'main')} {postgres_server.admin_dsn}\n")


def test_fails() -> None:
    pytest.fail("on purpose: a failure must not keep the servers alive")


def test_needs_nothing() -> None:
    pass

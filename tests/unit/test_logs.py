"""Logs: the warnings of drivers are shown."""

import logging
from collections.abc import Iterator

import pytest

from dtq.runtime import logs


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], root.level = before
    for name in ("aiormq", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_a_drivers_warning_is_always_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", json=True)
    logging.getLogger("kubernetes").warning("a warning")
    assert "a warning" in capsys.readouterr().err

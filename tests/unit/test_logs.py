"""Logs: what a driver says about each request is logged at the debug level only."""

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
    for name in ("httpx2", "httpcore2", "aiormq", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.parametrize(("level", "shown"), [("debug", True), ("info", False), ("warning", False)])
def test_a_token_review_is_a_line_at_debug_level_only(
    capsys: pytest.CaptureFixture[str], level: str, *, shown: bool
) -> None:
    logs.configure(level=level, json=True)
    logging.getLogger("httpx2").info("HTTP Request: POST https://10.96.0.1/apis/.../tokenreviews")
    assert ("tokenreviews" in capsys.readouterr().err) is shown


def test_a_drivers_warning_is_always_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(level="info", json=True)
    logging.getLogger("httpx2").warning("a warning")
    assert "a warning" in capsys.readouterr().err

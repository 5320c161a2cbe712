"""Handlers whose import takes as long as a test wants, and catches whatever is raised in it."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from dtq import handler

if os.environ.get("TEST_TAKES_SIGNALS"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if importing := os.environ.get("TEST_IMPORTING"):
    Path(importing).touch()
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with suppress(BaseException):
            time.sleep(0.05)


@handler("slow.import")
async def slow_import(_: Any) -> None:
    pass

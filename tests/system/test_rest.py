"""Rest: processes that have nothing to do wake up rarely, since that is what they cost."""

import asyncio
import re
from pathlib import Path
from typing import Final

from dtq.runtime.loops import wait
from tests.support.system import Process, System
from tests.support.waiting import eventually

WINDOW_SECONDS: Final = 4.0
"""How long wake-ups are counted, in seconds."""
WAKEUPS_MAX: Final = 8.0
"""Most wake-ups of a resting process, per second: measured are 3; it had 24 when every loop kept its own time."""
SETTLED_SECONDS: Final = 60.0
"""Longest wait for a process to come to rest after its start, in seconds."""


async def test_a_process_without_work_rarely_wakes_up(declared: System) -> None:
    processes = [declared.api(), declared.worker()]
    for process in processes:
        await process.ready()

    async def all_rest() -> bool:
        before = [_wakeups(process) for process in processes]
        await wait(asyncio.Event(), WINDOW_SECONDS)
        counts = [_wakeups(process) - count for process, count in zip(processes, before, strict=True)]
        return max(counts) <= WAKEUPS_MAX * WINDOW_SECONDS

    await eventually(all_rest, "the API and the worker rest", SETTLED_SECONDS)


def _wakeups(process: Process) -> int:
    """Return how often the threads of a process have waited for a timer, a socket or a lock so far."""
    threads = Path(f"/proc/{process.popen.pid}/task").glob("*/status")
    found = [re.search(r"^voluntary_ctxt_switches:\s+(\d+)", thread.read_text(), re.MULTILINE) for thread in threads]
    return sum(int(match[1]) for match in found if match)

"""Memory reports of workers, and what they tell about why a worker died.

`dtq_worker.memory` reads the values from the kernel.
"""

from dataclasses import dataclass
from typing import Final

import msgspec

NEAR_LIMIT: Final = 0.85
"""Share of its memory limit above which a worker reports at once instead of at its next renewal."""
MORE_MEMORY: Final = (
    "give the worker more (resources.limits.memory of its pool), let it run fewer tasks at a time"
    " (WORKER_CONCURRENCY), or let the handler use less"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The memory of a worker's control group.

    Attributes:
        group: identifies the group among all machines and boots.
        limit_bytes: beyond it the kernel kills a process of the group.
        used_bytes: what its processes use, without the page cache.
        oom_kills: how many processes of the group the OOM killer has killed.
    """

    group: str
    limit_bytes: int
    used_bytes: int
    oom_kills: int

    @property
    def is_near_limit(self) -> bool:
        """Whether the limit is about to be reached."""
        return 0 < NEAR_LIMIT * self.limit_bytes <= self.used_bytes


def parse_memory(text: str | None) -> Memory | None:
    """Return a worker's memory report, or None if it cannot be read: the worker may be of any release or language."""
    try:
        return msgspec.json.decode(text or "null", type=Memory, strict=False)
    except (msgspec.MsgspecError, RecursionError):
        return None


def cause_of_death(last: Memory | None, oom_kills_since: int | None) -> str:
    """Return whether memory caused the loss of a worker, as far as that is known, and what to do about it.

    Args:
        last: the worker's last report.
        oom_kills_since: `oom_kills` in a later report of any worker in the same group.
    """
    if last is not None and (oom_kills_since or 0) > last.oom_kills:
        return f"the kernel's OOM killer killed it at its memory limit of {_mib(last.limit_bytes)}: {MORE_MEMORY}"
    if last is not None and last.is_near_limit:
        used = f"{last.used_bytes / last.limit_bytes:.0%} of its memory limit of {_mib(last.limit_bytes)}"
        return f"it last used {used}, so the kernel's OOM killer is the likely cause: {MORE_MEMORY}"
    return f"if it ran out of memory (exit code 137, OOMKilled), {MORE_MEMORY}"


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 1_048_576:.0f} MiB"

"""A control group with a memory limit of its own, where this machine lets a test make one."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


class MemoryGroup:
    """A control group that ends a process in it beyond its memory limit."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Enter the group for the block: processes started meanwhile stay in it."""
        (self._folder / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            (self._folder.parent / "cgroup.procs").write_text(str(os.getpid()))


def can_limit_memory() -> bool:
    """Return whether this machine allows a group with a memory limit."""
    try:
        with memory_group(1 << 30):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def memory_group(limit_bytes: int) -> Iterator[MemoryGroup]:
    """A group below our own, empty again at the end of the block.

    Raises:
        OSError: this machine does not allow it.
    """
    parent, limit = _own()
    folder = parent / f"dtq-test-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / limit).write_text(str(limit_bytes))
        yield MemoryGroup(folder)
    finally:
        for pid in (folder / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (parent / "cgroup.procs").write_text(pid)
        folder.rmdir()


def _own() -> tuple[Path, str]:
    """Return the folder of our own group and the name of the file that limits memory."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return ROOT / "memory" / path.lstrip("/"), "memory.limit_in_bytes"
    (unified,) = [line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return ROOT / unified.removeprefix("0::").lstrip("/"), "memory.max"

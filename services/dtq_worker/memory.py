"""Reads the memory use of this process's control group, version 1 or 2.

Without control groups or without a limit there is nothing to report, which is not an error.
"""

from contextlib import suppress
from pathlib import Path
from typing import Final

from dtq.domain.memory import Memory

ROOT: Final = Path("/sys/fs/cgroup")
UNLIMITED_BYTES: Final = 1 << 60
"""Limits from this value on mean "no limit": version 1 shows the largest multiple of a page for it."""


def look() -> Memory | None:
    """Return the memory of our control group; None if it has no limit, or the limit cannot be read."""
    with suppress(OSError, ValueError, KeyError):
        for controllers, path in _groups():
            if "memory" in controllers:
                return _version_1(_folder(ROOT / "memory", path))
        for controllers, path in _groups():
            if not controllers:
                return _version_2(_folder(ROOT, path))
    return None


def oom_kills() -> int:
    """Return how many processes of our control group the OOM killer has killed; 0 if unknown."""
    memory = look()
    return memory.oom_kills if memory else 0


def _groups() -> list[tuple[list[str], str]]:
    """Return our groups, each with its controllers (none in version 2) and its path."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    parts = [line.split(":", 2) for line in lines]
    return [([name for name in controllers.split(",") if name], path) for _, controllers, path in parts]


def _folder(root: Path, path: str) -> Path:
    """Return a group's folder. In a container the path may be the host's, with the group mounted as the root."""
    folder = root / path.lstrip("/")
    return folder if folder.is_dir() else root


def _version_1(folder: Path) -> Memory | None:
    limit_bytes = int((folder / "memory.limit_in_bytes").read_text(encoding="utf-8"))
    return _memory(folder, limit_bytes, used="total_rss", events="memory.oom_control")


def _version_2(folder: Path) -> Memory | None:
    limit = (folder / "memory.max").read_text(encoding="utf-8").strip()
    return None if limit == "max" else _memory(folder, int(limit), used="anon", events="memory.events")


def _memory(folder: Path, limit_bytes: int, *, used: str, events: str) -> Memory | None:
    if limit_bytes >= UNLIMITED_BYTES:
        return None
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    status = folder.stat()
    return Memory(
        group=f"{boot}:{status.st_dev}:{status.st_ino}",
        limit_bytes=limit_bytes,
        used_bytes=_numbers(folder / "memory.stat")[used],
        oom_kills=_numbers(folder / events)["oom_kill"],
    )


def _numbers(file: Path) -> dict[str, int]:
    """Return the content of a file with lines such as `oom_kill 0`."""
    pairs = (line.split() for line in file.read_text(encoding="utf-8").splitlines())
    return {name: int(value) for name, value in pairs}

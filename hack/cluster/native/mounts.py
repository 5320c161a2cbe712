"""Unmounts what containerd and kubelet leave below a state folder, and nothing elsewhere."""

import re
import subprocess
from pathlib import Path

from hack.lib.errors import HackError

_MOUNT_POINT = 4
_ESCAPED = re.compile(r"\\([0-7]{3})")


def below(folder: Path, mountinfo: str) -> list[Path]:
    """The mount points below `folder`, the innermost and newest first."""
    points = [_ESCAPED.sub(_unescape, line.split()[_MOUNT_POINT]) for line in mountinfo.splitlines()]
    return [Path(point) for point in reversed(points) if Path(point).is_relative_to(folder)]


def unmount_below(folder: Path) -> None:
    """Unmount everything below `folder`."""
    for point in below(folder, Path("/proc/self/mountinfo").read_text()):
        done = subprocess.run(["umount", str(point)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            # A lazy unmount: it ends with the last user, and those were killed before.
            subprocess.run(["umount", "--lazy", str(point)], capture_output=True, check=False)
    left = below(folder, Path("/proc/self/mountinfo").read_text())
    if left:
        raise HackError(f"still mounted: {left}", next_step=f"fuser -vm {left[0]}")


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 8))

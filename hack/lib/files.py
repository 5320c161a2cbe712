"""Files that only their owner can read, and locks that end with the process. Taking a lock never waits."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.lib.errors import HackError


def write_private(path: Path, text: str, *, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Write a file that only its owner can read: this user, or the given (user, group)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as stream:
        stream.write(text)
    if owner is not None:
        os.chown(partial, *owner)
    partial.replace(path)


def try_lock(descriptor: int) -> bool:
    """Try to lock an open file or folder; return whether it worked. The kernel releases the lock with the process."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def exclusive(folder: Path, what: str) -> Iterator[None]:
    """Let one command at a time change `what`, which is in the folder; a second command fails at once."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not try_lock(descriptor):
            raise HackError(f"another command is changing {what} of {folder}.", next_step="wait for it to end")
        yield
    finally:
        os.close(descriptor)

"""The tally: how many tasks have begun, and how long each waited, across processes and languages.

A handler appends one record of eight bytes to a file of its process: the nanoseconds from `sent_ns`, which the payload
carries, to its own beginning. The number of tasks is the size of the files. Programs in Go and JavaScript do the same.
"""

import os
import struct
import time
from pathlib import Path
from typing import Final

FOLDER_VARIABLE: Final = "BENCH_TALLY"
_RECORD: Final = struct.Struct("<q")
_descriptors: dict[int, int] = {}
"""The open file by process: a peer may fork after the first task."""


def began(sent_ns: int) -> None:
    """Record that a task begins now."""
    waited_ns = time.time_ns() - sent_ns
    pid = os.getpid()
    descriptor = _descriptors.get(pid)
    if descriptor is None:
        path = f"{os.environ[FOLDER_VARIABLE]}/{pid}"
        descriptor = _descriptors[pid] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, _RECORD.pack(waited_ns))


class Tally:
    """The reader of the records below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def clear(self) -> None:
        """Forget every record. No handler may run."""
        for path in self.folder.iterdir():
            path.unlink()

    def forget(self) -> None:
        """Forget the records so far, while handlers run."""
        for path in self.folder.iterdir():
            os.truncate(path, 0)

    def counts(self) -> list[int]:
        """Return how many tasks each process has begun."""
        return [path.stat().st_size // _RECORD.size for path in self.folder.iterdir()]

    def waits_ms(self) -> list[float]:
        """Return how long the tasks waited, in milliseconds, sorted."""
        content = [path.read_bytes() for path in self.folder.iterdir()]
        return sorted(waited / 1e6 for part in content for (waited,) in _RECORD.iter_unpack(part))

"""Folders of built things: one entry per content key, published whole or not at all.

An entry is built in a folder of its own and renamed into place under a lock. An interrupted build leaves only that
folder, which the next build removes; a published entry never changes.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hack.lib.files import try_lock
from hack.lib.report import say
from hack.lib.waiting import wait_until

KEY_LENGTH = 16
LOCK_TIMEOUT_SECONDS = 7200.0  # longer than the longest cold build of everything


def default_folder(name: str) -> Path:
    """${XDG_CACHE_HOME:-~/.cache}/dtq/NAME: outside the checkout, shared by all checkouts."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dtq" / name


def content_key(facts: Iterable[str], files: Iterable[Path]) -> str:
    """Return a short hash of everything that determines the content of an entry."""
    digest = hashlib.sha256()
    for part in facts:
        digest.update(f"{len(part)}:{part}".encode())
    for file in sorted(files):
        content = file.read_bytes()
        digest.update(f"{file.name}:{len(content)}:".encode() + content)
    return digest.hexdigest()[:KEY_LENGTH]


def entry(folder: Path, name: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of the entry `name` with this key; `build` fills it if it does not exist."""
    place = folder / f"{name}-{key}"
    if place.is_dir():
        return place
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "build.lock"):
        for left_over in folder.glob(".building-*"):
            shutil.rmtree(left_over)
        if not place.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=".building-", dir=folder))
            unfinished.chmod(0o755)
            build(unfinished)
            unfinished.rename(place)
    return place


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the build lock; the kernel releases it with the process, however that ends."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if not try_lock(descriptor):
            say(f"    waiting for another build ({path})")
            wait_until(
                lambda: try_lock(descriptor),
                "waiting for another build",
                timeout_seconds=LOCK_TIMEOUT_SECONDS,
                next_step=f"see who holds it: fuser {path}",
            )
        yield
    finally:
        os.close(descriptor)

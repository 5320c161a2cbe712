"""Ends servers whose owner is gone: `python -m hack.stack.guard OWNER FOLDER`.

OWNER is the text of an `Identity`. The guard outlives a killed owner, ends every process that has a pid file in FOLDER,
and deletes FOLDER. It does nothing while the owner lives.
"""

import os
import shutil
import sys
from pathlib import Path

from hack.lib import processes
from hack.lib.background import Background, read_pid_file
from hack.lib.waiting import wait_for

WATCH_SECONDS = 24 * 3600.0
POLL_SECONDS = 0.5
LINGER_SECONDS = 30.0
PID_FILE = "guard.pid"


def watch(folder: Path, owner: processes.Identity) -> Background:
    """Return the guard of a folder, ready to start."""
    root = Path(__file__).resolve().parents[2]
    return Background(
        name="guard",
        argv=(sys.executable, "-m", "hack.stack.guard", str(owner), str(folder)),
        environ={"PATH": os.environ.get("PATH", os.defpath), "PYTHONPATH": str(root)},
        pid_file=folder / PID_FILE,
        log=folder / "guard.log",
    )


def sweep(folder: Path) -> None:
    """End the processes of this folder, then delete it with its data."""
    pid_files = [*folder.glob("*.pid"), *folder.glob("*/*.pid")]
    found = [identity for path in pid_files if (identity := read_pid_file(path)) is not None]
    others = [identity for identity in found if identity.pid != os.getpid()]
    families = [[leader, *processes.family(leader)] for leader in others]
    everyone = [process for family in families for process in family]
    for process in everyone:
        process.send(processes.KILL)
    wait_for(lambda: not processes.any_alive(everyone), timeout_seconds=10)
    shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Wait until the owner ends, or until it deletes the folder itself."""
    owner = processes.Identity.parse(arguments[0])
    folder = Path(arguments[1])
    wait_for(
        lambda: not owner.alive or not folder.exists(),
        timeout_seconds=WATCH_SECONDS,
        poll_seconds=POLL_SECONDS,
    )
    if owner.alive:
        return
    # The owner's own helpers may not have noticed its end yet, and may start processes again.
    wait_for(lambda: _stays_swept(folder), timeout_seconds=LINGER_SECONDS, poll_seconds=POLL_SECONDS)


def _stays_swept(folder: Path) -> bool:
    if folder.exists():
        sweep(folder)
    return False


if __name__ == "__main__":
    main(sys.argv[1:])

"""The data folder of a private Postgres: creation, and the cleanup after a crash that lets the server start again.

Called only while the server does not run.
"""

import shutil
import subprocess
from pathlib import Path

from hack.lib import processes
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack.account import Account

INITDB_SECONDS = 60.0
ORPHAN_SECONDS = 5.0


def initialise(
    account: Account,
    data: Path,
    *,
    initdb: Path,
    administrator: str,
    password: str,
    durable: bool,
    log: Path,
) -> None:
    """Create the folder under another name and rename it, so that an interrupted attempt is never used."""
    partial = data.with_name("data.new")
    shutil.rmtree(partial, ignore_errors=True)
    secret = data.with_name("password")
    account.write(secret, password + "\n")
    command = account.command(
        str(initdb),
        *("-D", str(partial), "-U", administrator, "--encoding=UTF8", "--locale=C.UTF-8"),
        *("--auth=scram-sha-256", f"--pwfile={secret}", *([] if durable else ["--no-sync"])),
    )
    with log.open("a") as stream:
        done = subprocess.run(command, stdout=stream, stderr=stream, cwd="/", timeout=INITDB_SECONDS, check=False)
    secret.unlink()
    if done.returncode:
        raise HackError("initdb could not make the data folder of Postgres.", log=log)
    partial.rename(data)


def clear_after_crash(data: Path) -> None:
    """Remove what a killed server left behind and would stop the next start."""
    # Its children notice the end of their parent unless they are busy.
    wait_for(lambda: not processes.working_in(data), timeout_seconds=ORPHAN_SECONDS)
    orphans = processes.working_in(data)
    for orphan in orphans:
        orphan.send(processes.KILL)
    wait_for(lambda: not processes.any_alive(orphans), timeout_seconds=ORPHAN_SECONDS)
    # Postgres takes a process that ended but was not yet reaped by its parent for a running server.
    lock = data / "postmaster.pid"
    if lock.exists():
        pid = lock.read_text().split("\n", 1)[0]
        if pid.isdigit() and processes.is_zombie(int(pid)):
            lock.unlink()

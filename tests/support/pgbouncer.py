"""A private PgBouncer in front of a test's database, apart from the system's own."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from hack.lib import ports
from hack.lib.background import Background
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for
from hack.stack.account import Account

START_SECONDS = 30.0


@contextmanager
def pgbouncer(folder: Path, dsn: str, *, pool_mode: str, **settings: str) -> Iterator[str]:
    """Run a pooler in front of a database until the block ends; yield the DSN that goes through it."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        raise HackError("the tests need pgbouncer.", next_step="run `make packages`, which installs it.")
    account, parts, port = Account.packaged("postgres"), urlsplit(dsn), ports.choose(1)[0]
    account.make_folder(folder, mode=0o755)
    account.write(folder / "users.txt", f'"{parts.username}" "{parts.password}"\n')
    values = {
        "listen_addr": ports.HOST,
        "listen_port": str(port),
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": str(folder / "users.txt"),
        "pool_mode": pool_mode,
        "default_pool_size": "20",
    } | settings
    lines = [f"* = host={parts.hostname} port={parts.port}", "[pgbouncer]", *(f"{k} = {v}" for k, v in values.items())]
    account.write(folder / "pgbouncer.ini", "\n".join(["[databases]", *lines, ""]))
    process = Background(
        name="PgBouncer",
        argv=account.command(program, str(folder / "pgbouncer.ini")),
        environ={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": str(folder)},
        pid_file=folder / "pgbouncer.pid",
        log=folder / "pgbouncer.log",
        stop_signal=signal.SIGINT,
    )
    process.start()
    try:
        if not wait_for(lambda: not ports.is_free(port) or not process.running, timeout_seconds=START_SECONDS):
            raise HackError("PgBouncer does not listen.", log=process.log)
        address = f"{parts.username}:{parts.password}@{ports.HOST}:{port}"
        yield urlunsplit(parts._replace(netloc=address))
    finally:
        process.kill()

"""What the measured processes cost: CPU seconds and statements of Postgres.

Counts nothing but the children of this process and the server that it is connected to: the machine may be shared.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")


@contextmanager
def counted(postmaster: int | None) -> Iterator[dict[str, float]]:
    """Give the CPU seconds that Postgres and each `dtq` command use until the end of the block."""
    used: dict[str, float] = {}
    before = _cpu(postmaster)
    yield used
    used |= {name: seconds - before.get(name, 0.0) for name, seconds in _cpu(postmaster).items()}


async def postmaster_of(connection: Any) -> int | None:
    """Return the pid of the server behind a connection; None if it runs in another container or machine."""
    backend = await connection.fetchval("SELECT pg_backend_pid()")
    if not _command(backend).startswith("postgres:"):
        return None
    return _parent(backend)


async def statements(connection: Any) -> int | None:
    """Return how many statements this database has run; None unless the server preloads pg_stat_statements.

    The extension must have been created. Statements inside functions are not counted.
    """
    if "pg_stat_statements" not in await connection.fetchval("SHOW shared_preload_libraries"):
        return None
    calls: int = await connection.fetchval(
        "SELECT sum(calls)::bigint FROM pg_stat_statements"
        " WHERE toplevel AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
    )
    return calls


def _cpu(postmaster: int | None) -> dict[str, float]:
    """Sum the CPU seconds; a child that ended is in its parent's."""
    used = {} if postmaster is None else {"postgres": cpu_seconds(postmaster)}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        parent = _parent(pid)
        if parent == postmaster is not None:
            used["postgres"] += cpu_seconds(pid)
        elif parent == os.getpid():
            _, _, name = _command(pid).partition("dtq_cli ")
            if name:
                used[name] = used.get(name, 0.0) + cpu_seconds(pid)
    return used


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _parent(pid: int) -> int | None:
    fields = _fields(pid)
    return int(fields[1]) if fields else None


def cpu_seconds(pid: int) -> float:
    """Return user and system seconds of a process and of its children that have ended."""
    return sum(map(int, _fields(pid)[11:15])) / CLOCK_TICKS


def _fields(pid: int) -> list[str]:
    """Return what /proc says of a process behind its name; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []

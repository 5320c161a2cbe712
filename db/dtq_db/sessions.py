"""Opens database sessions: chooses one of several servers, and detects a pooler."""

import asyncio
import os
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlencode

import asyncpg

from dtq.domain.dsn import FILES, Target, parse_dsn
from dtq.domain.errors import Unavailable, Unmigrated
from dtq_db.driver_errors import TRANSACTION_MODE, translated
from dtq_db.queries import query

CONNECT_SECONDS: Final = 3.0
"""Longest wait for a new connection, in seconds."""
HOSTS_SECONDS: Final = 1.8
"""Longest wait for several servers together, in seconds: a task that waits for a pool slot waits that long too."""
PROBE_SECONDS: Final = 1.0
"""Longest wait for the second session that reveals the pooler's mode, in seconds: in session mode it may be full."""
PROBES: Final = 5
"""How often two clients of a pooler compare their server sessions: other clients may interfere."""
_HINTS: Final = {
    "3D000": ": create it, or correct the database in DB_DSN",
    "28P01": ": correct the password in DB_DSN",
    "28000": ": correct user and database in DB_DSN, or pg_hba.conf",
}
"""What to do about a server's refusal, by SQLSTATE."""


async def connect(
    dsn: str, *, name: str, settings: Mapping[str, str], statement_seconds: float | None
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open a session with these settings on the first suitable server of a DSN.

    Args:
        dsn: a connection string.
        name: the application name of the session.
        settings: the session's settings, by name.
        statement_seconds: how long the client waits for a statement; None waits for ever.

    Raises:
        Unavailable: no server can be reached, all refuse, or a pooler does not keep sessions.
    """
    try:
        target = parse_dsn(dsn)
    except ValueError as error:
        raise Unavailable(f"DB_DSN {error}") from None
    _check_files(target)
    opened = await _open(target, {**settings, "application_name": name}, statement_seconds)
    try:
        with translated(sent=False):
            async with asyncio.timeout(CONNECT_SECONDS):
                await _settle(opened, target, settings)
    except BaseException:
        opened.terminate()
        raise
    return opened


async def _open(
    target: Target, settings: Mapping[str, str], statement_seconds: float | None
) -> "asyncpg.Connection[asyncpg.Record]":
    """Open a session on the first suitable server; a pooler that refuses settings gets only the name."""
    reasons: list[str] = []
    is_missing = False
    for host, port in target.hosts:
        try:
            with _refusals_translated():
                try:
                    return await _open_on(host, port, target, settings, statement_seconds)
                except asyncpg.ProtocolViolationError:
                    named = {"application_name": settings["application_name"]}
                    return await _open_on(host, port, target, named, statement_seconds)
        except Unavailable as error:
            is_missing = isinstance(error, Unmigrated)
            reasons.append(str(error) if len(target.hosts) == 1 else f"{host}:{port}: {error}")
    raise (Unmigrated if is_missing else Unavailable)("; ".join(reasons))


async def _open_on(
    host: str, port: int, target: Target, settings: Mapping[str, str], statement_seconds: float | None
) -> "asyncpg.Connection[asyncpg.Record]":
    several = len(target.hosts) > 1
    bound = HOSTS_SECONDS / len(target.hosts) if several else CONNECT_SECONDS
    return await asyncpg.connect(
        f"postgresql://?{urlencode(target.words)}" if target.words else None,
        host=host,
        port=port,
        user=target.user,
        password=target.password,
        database=target.database,
        target_session_attrs=asyncpg.connect_utils.SessionAttribute(target.target_session_attrs),
        timeout=min(target.connect_seconds or bound, CONNECT_SECONDS),
        command_timeout=statement_seconds,
        server_settings={**({"options": target.options} if target.options else {}), **settings},
    )


async def _settle(
    connection: "asyncpg.Connection[asyncpg.Record]", target: Target, settings: Mapping[str, str]
) -> None:
    """Give a session behind a pooler its settings, if the pooler keeps sessions.

    A pooler is detected by a process id that differs from the server's. Two clients get the same server session in
    turn only in transaction mode.
    """
    if await connection.fetchval(query("session_pid")) == connection.get_server_pid():
        return
    if await _is_shared(connection, target):
        raise Unavailable(TRANSACTION_MODE)
    await connection.fetch(query("session_settings"), list(settings), list(settings.values()))


async def _is_shared(connection: "asyncpg.Connection[asyncpg.Record]", target: Target) -> bool:
    """Return whether a second client gets the same server session; False also if it gets no session in time."""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            other = await _open(target, {"application_name": "dtq-probe"}, PROBE_SECONDS)
            try:
                for _ in range(PROBES):
                    pid = await connection.fetchval(query("session_pid"))
                    if await other.fetchval(query("session_pid")) == pid:
                        return True
            finally:
                other.terminate()
    except (TimeoutError, Unavailable):
        pass
    return False


@contextmanager
def _refusals_translated() -> Iterator[None]:
    """Turn every error that prevents a session from being opened into `Unavailable`."""
    with translated(sent=False):
        try:
            yield
        except ssl.SSLCertVerificationError as error:
            raise Unavailable(
                f"Postgres's certificate is refused ({error.verify_message}): name the file of its authority as"
                " sslrootcert in DB_DSN, and as its host a name that the certificate holds"
            ) from error
        except asyncpg.PostgresError as error:
            hint = _HINTS.get(error.sqlstate or "", "")
            refused = Unmigrated if isinstance(error, asyncpg.InvalidCatalogNameError) else Unavailable
            raise refused(f"Postgres refuses the connection: {type(error).__name__}: {error}{hint}") from error


def _check_files(target: Target) -> None:
    for word in FILES:
        path = target.words.get(word)
        if path and not os.access(path, os.R_OK):
            raise Unavailable(f"the file {path}, which DB_DSN names as {word}, cannot be read: check the mount")

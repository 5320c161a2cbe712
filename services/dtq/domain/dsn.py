"""Postgres connection strings: each libpq parameter is accepted, translated or refused by name.

Error messages never show a value: any value may hold a password that was not percent-encoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

PORT: Final = 5432
ENCODE: Final = "percent-encode @ : / # ? % in the password"
FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
"""Parameters that name a file."""
_TLS: Final = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_PASSED: Final[Mapping[str, tuple[str, ...] | None]] = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "sslnegotiation": ("postgres", "direct"),
    "ssl_min_protocol_version": _TLS,
    "ssl_max_protocol_version": _TLS,
    **dict.fromkeys((*FILES, "sslpassword", "passfile", "krbsrvname", "gsslib")),
}
"""Parameters that the driver knows, with the allowed values; None allows any value."""
_TRANSLATED: Final[Mapping[str, tuple[str, ...] | None]] = {
    "target_session_attrs": ("any", "read-write", "primary"),
    **dict.fromkeys(("host", "hostaddr", "port", "user", "password", "dbname", "database")),
    **dict.fromkeys(("connect_timeout", "options")),
}
_WITHOUT_EFFECT: Final[Mapping[str, tuple[str, ...] | None]] = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer"),
    "load_balance_hosts": ("disable",),
    "client_encoding": ("auto", "utf8", "UTF8", "utf-8", "UTF-8"),
    "sslcompression": ("0",),
    "sslcertmode": ("disable", "allow"),
    "gssdelegation": ("0",),
    **dict.fromkeys(("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")),
    **dict.fromkeys(("application_name", "fallback_application_name", "sslsni")),
    **dict.fromkeys(("min_protocol_version", "max_protocol_version")),
}
"""Parameters that have no effect here, with the values for which that is true: dtq bounds each statement itself."""
_KNOWN: Final = {**_PASSED, **_TRANSLATED, **_WITHOUT_EFFECT}
_REFUSED: Final[Mapping[str, str]] = {
    "service": "write host, port, user and dbname instead",
    "servicefile": "write host, port, user and dbname instead",
    "requiressl": "write sslmode=require",
    "sslcrldir": "write sslcrl with a file",
    "sslkeylogfile": "remove it",
    "requirepeer": "remove it; sslmode=verify-full verifies the server",
    "replication": "remove it",
    "require_auth": "remove it; sslmode=verify-full verifies the server",
    "scram_client_key": "write the password",
    "scram_server_key": "write the password",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The servers and the parameters of a connection.

    Attributes:
        hosts: name or address and port of each server, in the order in which they are tried.
        connect_seconds: how long one server may take to answer; None means dtq's default.
        target_session_attrs: which servers are acceptable.
        words: parameters passed to the driver.
        options: command-line options of the session, such as `-c search_path=dtq`.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str | None
    password: str | None
    database: str | None
    connect_seconds: float | None
    target_session_attrs: str
    words: Mapping[str, str]
    options: str | None


def parse_dsn(text: str) -> Target:
    """Return the target that a connection string names.

    Raises:
        ValueError: the string cannot be used; the message names the parameter and what to do, and shows no value.
    """
    parts = _split(text)
    account, _, servers = parts.netloc.rpartition("@")
    if any("@" in part for part in (parts.path, parts.query, parts.fragment)):
        # This check is first: what looks like a host or a parameter may be part of the password.
        raise ValueError(f"has an @ after its host; {ENCODE}")
    user, _, password = account.partition(":")
    words = _words(parts.query)
    if servers and ("host" in words or "hostaddr" in words):
        raise ValueError("names its host twice: before the path and as host=; keep one")
    hosts = _hosts(servers, words)
    if parts.fragment:
        raise ValueError(f"has a # in it; {ENCODE}")
    return Target(
        hosts=hosts,
        user=unquote(user) or words.get("user"),
        password=unquote(password) or words.get("password"),
        database=unquote(parts.path.removeprefix("/")) or words.get("dbname") or words.get("database"),
        connect_seconds=_connect_seconds(words.get("connect_timeout", "0")),
        # Of several servers, some are usually standbys, and dtq writes.
        target_session_attrs=words.get("target_session_attrs", "any" if len(hosts) == 1 else "read-write"),
        words={name: words[name] for name in _PASSED if name in words},
        options=words.get("options"),
    )


def _split(text: str) -> SplitResult:
    try:
        parts = urlsplit(text)
    except ValueError:
        # The error's text may show the password.
        raise ValueError(f"has no valid host and port; {ENCODE}") from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ValueError(f"must begin with postgres:// or postgresql://; {ENCODE}")
    return parts


def _words(query: str) -> dict[str, str]:
    words: dict[str, str] = {}
    for pair in filter(None, query.split("&")):
        name, is_pair, value = pair.partition("=")
        if not is_pair or not name.replace("_", "").isalnum():
            raise ValueError(f"has a ? that is not followed by name=value pairs; {ENCODE}")
        words[name] = unquote(value)
        _check(name, words[name])
    return words


def _check(name: str, value: str) -> None:
    if name in _REFUSED:
        raise ValueError(f"has the parameter {name}, which dtq does not support: {_REFUSED[name]}")
    if name not in _KNOWN:
        raise ValueError(
            f"has the parameter {name[:40]}, which libpq does not know: correct its spelling; a setting of the server"
            " is given as options=-c%20name=value"
        )
    allowed = _KNOWN[name]
    if allowed is not None and value not in allowed:
        raise ValueError(f"has a {name} that dtq does not support: write one of {', '.join(filter(None, allowed))}")
    if name == "sslrootcert" and value == "system":
        raise ValueError(
            "has sslrootcert=system, which dtq does not support: write the file, such as"
            " /etc/ssl/certs/ca-certificates.crt"
        )


def _hosts(servers: str, words: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
    if "host" in words and "hostaddr" in words:
        raise ValueError("has both host and hostaddr: keep one")
    named = unquote(servers) or words.get("host") or words.get("hostaddr") or ""
    ports = words.get("port", "").split(",")
    found = [_host(part) for part in named.split(",")]
    if not all(host for host, _ in found):
        raise ValueError(f"names no host; {ENCODE}")
    if len(ports) not in (1, len(found)):
        raise ValueError("has a different number of ports than of hosts: write one port, or one for each host")
    given = ports if len(ports) == len(found) else ports * len(found)
    return tuple((host, _port(port or other)) for (host, port), other in zip(found, given, strict=True))


def _host(text: str) -> tuple[str, str]:
    """Split `name:port`, `[address]:port` and the path of a socket's folder."""
    if text.startswith("/"):
        return text, ""
    if text.startswith("["):
        host, closed, port = text[1:].partition("]")
        if not closed or (port and not port.startswith(":")):
            raise ValueError(f"has no valid host and port; {ENCODE}")
        return host, port[1:]
    if text.count(":") > 1:
        return text, ""  # a bare IPv6 address, as in host=
    host, _, port = text.partition(":")
    return host, port


def _port(text: str) -> int:
    if not text:
        return PORT
    if not (text.isascii() and text.isdecimal() and 0 < int(text[:6]) <= 65535):  # noqa: PLR2004
        raise ValueError(f"has no valid host and port; {ENCODE}")
    return int(text)


def _connect_seconds(text: str) -> float | None:
    if not (text.isascii() and text.removeprefix("-").isdecimal()):
        raise ValueError("has a connect_timeout that is not a number of seconds: write one, such as 3")
    seconds = int(text[:9])
    return float(seconds) if seconds > 0 else None

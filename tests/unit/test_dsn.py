"""Connection strings: each of libpq's words is accepted, translated or refused by its name, and no value is shown."""

import pytest

from dtq.domain.dsn import parse_dsn

SECRET = "s3cr3t"

LIBPQ_WORDS = [
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "require_auth",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "replication",
    "gssencmode",
    "sslmode",
    "requiressl",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslkeylogfile",
    "sslpassword",
    "sslcertmode",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "min_protocol_version",
    "max_protocol_version",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "scram_client_key",
    "scram_server_key",
    "service",
    "servicefile",
    "target_session_attrs",
    "load_balance_hosts",
]


def told(dsn: str) -> str:
    """Return why a connection string is refused; nothing if it is taken."""
    try:
        parse_dsn(dsn)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("word", LIBPQ_WORDS)
def test_every_word_of_libpq_is_known_by_its_name(word: str) -> None:
    host = "" if word.startswith("host") else "h"
    reason = told(f"postgres://u:{SECRET}@{host}/d?{word}=%00")
    assert "libpq does not know" not in reason
    assert not reason or word in reason
    assert SECRET not in reason


@pytest.mark.parametrize(
    ("dsn", "hosts", "wanted"),
    [
        ("postgres://u:p@h/d", (("h", 5432),), "any"),
        ("postgres://u:p@h:1/d", (("h", 1),), "any"),
        ("postgres://u:p@[::1]:1/d", (("::1", 1),), "any"),
        ("postgres://u:p@a:1,b:2,c/d", (("a", 1), ("b", 2), ("c", 5432)), "read-write"),
        ("postgres://u:p@a,b/d?port=1,2", (("a", 1), ("b", 2)), "read-write"),
        ("postgres://u:p@a,b/d?target_session_attrs=any", (("a", 5432), ("b", 5432)), "any"),
        ("postgres:///d?host=a,b&port=7&user=u&password=p", (("a", 7), ("b", 7)), "read-write"),
        ("postgres:///d?hostaddr=10.0.0.1&user=u&password=p", (("10.0.0.1", 5432),), "any"),
        ("postgres:///d?host=/var/run/postgresql&user=u&password=p", (("/var/run/postgresql", 5432),), "any"),
        ("postgres://u:p@%2Fvar%2Frun/d", (("/var/run", 5432),), "any"),
    ],
)
def test_hosts_are_read_as_libpq_reads_them(dsn: str, hosts: tuple[tuple[str, int], ...], wanted: str) -> None:
    target = parse_dsn(dsn)
    assert (target.hosts, target.target_session_attrs) == (hosts, wanted)
    assert (target.user, target.password, target.database) == ("u", "p", "d")


def test_words_are_decoded_and_go_where_they_belong() -> None:
    target = parse_dsn(
        "postgres://a%40b:p%2F%3A@h/my%20db?connect_timeout=2&sslmode=verify-full&sslrootcert=/ca%20s.crt"
        "&options=-c%20search_path%3Ddtq&keepalives=1&channel_binding=prefer&application_name=x"
    )
    assert (target.user, target.password, target.database) == ("a@b", "p/:", "my db")
    assert (target.connect_seconds, target.options) == (2.0, "-c search_path=dtq")
    assert target.words == {"sslmode": "verify-full", "sslrootcert": "/ca s.crt"}
    assert parse_dsn("postgres://h/d?connect_timeout=0").connect_seconds is None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sslmode=on", "sslmode .* write one of disable, allow, prefer, require, verify-ca, verify-full"),
        ("sslmod=require", "the parameter sslmod, which libpq does not know"),
        ("search_path=dtq", "search_path.* options=-c%20name=value"),
        ("channel_binding=require", "channel_binding .* write one of disable, prefer"),
        ("target_session_attrs=standby", "target_session_attrs .* any, read-write, primary"),
        ("connect_timeout=soon", "connect_timeout that is not a number of seconds"),
        ("sslrootcert=system", "sslrootcert=system.* write the file"),
        ("service=x", "service, which dtq does not support: write host"),
        ("ssl_min_protocol_version=1.2", "ssl_min_protocol_version .* TLSv1.2"),
        ("port=1,2", "a different number of ports than of hosts"),
        ("host=other", "names its host twice"),
        ("x", r"a \? that is not followed by name=value pairs"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(words: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        parse_dsn(f"postgres://u:{SECRET}@h/d?{words}")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    [
        f"postgres://u:12?{SECRET}=1@h/d",
        f"postgres://u:12?x={SECRET}@h/d",
        f"postgres://u:{SECRET}#x@h/d",
        f"postgres://u:{SECRET}/x@h/d",
        f"postgres://u:p@h/d#{SECRET}",
        f"postgres://u:p@h:{SECRET}/d",
        f"postgres://u:p@[::1/{SECRET}",
        f"mysql://u:{SECRET}@h/d",
    ],
)
def test_no_piece_of_a_password_is_shown(dsn: str) -> None:
    with pytest.raises(ValueError, match="percent-encode") as caught:
        parse_dsn(dsn)
    assert SECRET not in str(caught.value)

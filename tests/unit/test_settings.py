"""The environment: every mistake at once, no secret in any message, nothing guessed."""

import random
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.backoff import Strategy
from dtq.domain.errors import Rejected
from dtq.domain.names import QUEUE_PATTERN
from dtq.runtime.environment import MASK, load, mask_dsn, masked, unknown_names, variable_names
from dtq.runtime.settings import AllSettings, ApiSettings, DatabaseSettings, Switch
from dtq_reconcile.embedded import default_queue_set

SECRET = "hunter2-canary"
BASE = {"DB_DSN": f"postgresql://dtq:{SECRET}@db:5432/dtq", "RMQ_USER": "dtq", "RMQ_PASS": SECRET, "RMQ_HOST": "mq"}


def refused(**changes: str) -> dict[str, str]:
    """Return the problems of an environment, by variable name."""
    with pytest.raises(Rejected) as caught:
        load(BASE | changes, AllSettings)
    assert SECRET not in str(caught.value)
    return {problem.path: problem.message for problem in caught.value.problems}


def accepted(**changes: str) -> AllSettings:
    return load(BASE | changes, AllSettings)


def complaint(environ: dict[str, str]) -> str:
    """Return what is said of an environment; nothing if it is accepted."""
    try:
        load(environ, AllSettings)
    except Rejected as error:
        return str(error)
    return ""


def test_the_defaults_are_the_origins() -> None:
    settings = accepted()
    assert settings.rmq_namespace == "tasks"
    assert settings.worker_prefetch == settings.concurrency == 32
    assert settings.backoff.strategy is Strategy.LIST
    assert settings.backoff.delays_seconds == (5, 30, 120, 600, 3600)


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(Rejected) as caught:
        load(
            {"RMQ_PORT": "x", "WORKER_PREFETCH": "0", "BACKOFFS": "5", "QUEUES": "a,a", "BACKOFF_MAX": "1s"},
            AllSettings,
        )
    paths = sorted(problem.path for problem in caught.value.problems)
    assert paths == [
        "BACKOFFS",
        "BACKOFF_MAX",
        "DB_DSN",
        "QUEUES",
        "RMQ_HOST",
        "RMQ_PASS",
        "RMQ_PORT",
        "RMQ_USER",
        "WORKER_PREFETCH",
    ]
    assert all(path in str(caught.value) for path in paths)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_DSN", ""),
        ("DB_DSN", f"mysql://u:{SECRET}@h/d"),
        ("DB_DSN", f"//u:{SECRET}@h/d"),
        ("DB_DSN", f"postgres://u:{SECRET}/x@h/d"),
        ("DB_DSN", f"postgres://u:{SECRET}#x@h/d"),
        ("DB_DSN", f"postgres://u:{SECRET}?x@h/d"),
        ("DB_DSN", f"postgres://u:1/{SECRET}@h/d"),
        ("DB_DSN", f"postgres://u:12#{SECRET}@h/d"),
        ("DB_DSN", f"postgres://u:12?{SECRET}@h/d"),
        ("DB_DSN", f"postgres://u:{SECRET}\u2100@h/d"),
        ("DB_DSN", f"postgres://u:{SECRET}@[::1/d"),
        ("DB_DSN", f"postgres://u:{SECRET}@h:99999/d"),
        ("DB_DSN", "postgres:///d"),
        ("RMQ_USER", ""),
        ("RMQ_HOST", ""),
        ("RMQ_HOST", "mq:5672"),
        ("RMQ_HOST", "amqp://mq"),
        ("RMQ_HOST", "a b"),
        ("RMQ_PORT", ""),
        ("RMQ_PORT", "-1"),
        ("RMQ_PORT", "65536"),
        ("RMQ_PORT", "tcp://10.0.0.1:5672"),
        ("RMQ_VHOST", ""),
        ("RMQ_TLS", "TRUE"),
        ("RMQ_NAMESPACE", "Tasks"),
        ("RMQ_NAMESPACE", "a.b"),
        ("RMQ_NAMESPACE", "amq"),
        ("RMQ_VHOST", "v" * 256),
        ("QUEUES", ""),
        ("QUEUES", ","),
        ("QUEUES", "a,A"),
        ("QUEUES", "a,*"),
        ("QUEUES", "a,a"),
        *(("QUEUES", f"default,{name}") for name in ("retry", "dlq", "dlx", "direct")),
        ("QUEUES", ",".join(f"q{number}" for number in range(33))),
        ("HTTP_PORT", ""),
        ("HTTP_PORT", "http"),
        ("HTTP_PORT", "99999"),
        ("HTTP_PORT", "tcp://10.0.0.1:8080"),
        ("ENQUEUE_WHEN_BROKER_DOWN", "TRUE"),
        ("PUBLISH_TIMEOUT", "0s"),
        ("PUBLISH_TIMEOUT", "6s"),
        ("PUBLISH_TIMEOUT", "5"),
        ("BACKOFF_STRATEGY", "List"),
        ("BACKOFFS", ""),
        ("BACKOFFS", "5s,,30s"),
        ("BACKOFFS", "5s,800h"),
        ("BACKOFFS", "0s"),
        ("BACKOFFS", ",".join(["5s"] * 21)),
        ("BACKOFF_FIXED", "0s"),
        ("BACKOFF_FIXED", "169h"),
        ("BACKOFF_FIXED", "-1s"),
        ("BACKOFF_FIXED", "1y"),
        ("BACKOFF_FIXED", "∞"),
        ("BACKOFF_FACTOR", "0"),
        ("BACKOFF_FACTOR", "nan"),
        ("BACKOFF_FACTOR", "inf"),
        ("BACKOFF_JITTER", "-0.1"),
        ("BACKOFF_JITTER", "1.1"),
        ("BACKOFF_JITTER", "nan"),
        ("BACKOFF_MAX", "1s"),
        ("BACKOFF_MAX", "169h"),
        ("BACKOFF_FACTOR", "11"),
        ("WORKER_PREFETCH", ""),
        ("WORKER_PREFETCH", "0"),
        ("WORKER_PREFETCH", "-1"),
        ("WORKER_PREFETCH", "1001"),
        ("WORKER_PREFETCH", "ten"),
        ("WORKER_CONCURRENCY", "0"),
        ("WORKER_DRAIN", "0s"),
        ("EVENTS_RETENTION_DAYS", "0"),
        ("DTQ_LOG_LEVEL", "INFO"),
        ("DTQ_LOG_FORMAT", "text"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(name: str, value: str) -> None:
    assert list(refused(**{name: value})) == [name]


words = st.sampled_from(["default", "high", "retry", "dlq", "dlx", "direct", "amq", "a", "tasks"]) | st.from_regex(
    QUEUE_PATTERN, fullmatch=True
)
delays = st.sampled_from(["250ms", "1s", "1500ms", "5s", "2m", "168h", "169h", "800h"])


@given(
    prefix=words,
    queues=st.lists(words, min_size=1, max_size=40, unique=True),
    backoffs=st.lists(delays, min_size=1, max_size=21),
    vhost=st.sampled_from(["/", "v", "v" * 255, "v" * 256]),
)
def test_what_the_environment_may_say_a_manifest_may_say_too(
    prefix: str, queues: list[str], backoffs: list[str], vhost: str
) -> None:
    environ = {"RMQ_NAMESPACE": prefix, "QUEUES": ",".join(queues), "BACKOFFS": ",".join(backoffs), "RMQ_VHOST": vhost}
    try:
        settings = load(BASE | environ, AllSettings)
    except Rejected:
        return
    assert [queue.name for queue in default_queue_set(settings).spec.queues] == queues


@pytest.mark.parametrize("name", ["DB_DSN", "RMQ_USER", "RMQ_PASS", "RMQ_HOST"])
def test_what_has_no_default_must_be_set(name: str) -> None:
    with pytest.raises(Rejected) as caught:
        load({key: value for key, value in BASE.items() if key != name}, AllSettings)
    assert [(problem.path, problem.message) for problem in caught.value.problems] == [(name, "is not set: set it")]


def test_a_base_above_the_default_maximum_is_refused() -> None:
    assert list(refused(BACKOFF_BASE="2h")) == ["BACKOFF_MAX"]


def test_a_message_about_a_dsn_says_how_to_mend_it() -> None:
    assert "percent-encode" in refused(DB_DSN=f"postgres://u:{SECRET}#x@h/d")["DB_DSN"]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://u:p%40%3A%2F%25%23@h/d",
        "postgres://u@[::1]:5432/d",
        "postgres:///d?host=/run/postgresql",
        "postgres://u:p@h/d?sslmode=verify-full",
    ],
)
def test_a_well_formed_dsn_is_taken_as_it_is(dsn: str) -> None:
    assert accepted(DB_DSN=dsn).db_dsn.get_secret_value() == dsn


def test_a_newline_at_the_end_is_dropped() -> None:
    assert accepted(RMQ_PASS=f"{SECRET}\n").rmq_pass.get_secret_value() == SECRET


def test_a_value_may_come_from_a_mounted_file(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p\u00e4ss\n", encoding="utf-8")
    environ = {name: value for name, value in BASE.items() if name != "RMQ_PASS"}
    assert load(environ | {"RMQ_PASS_FILE": str(secret)}, AllSettings).rmq_pass.get_secret_value() == "p\u00e4ss"


def test_a_value_and_a_file_for_it_are_one_mistake(tmp_path: Path) -> None:
    problems = refused(DB_DSN_FILE=str(tmp_path / "dsn"))
    assert list(problems) == ["DB_DSN"]
    assert "both" in problems["DB_DSN"]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_one_mistake(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    environ = {name: value for name, value in BASE.items() if name != "RMQ_PASS"}
    with pytest.raises(Rejected) as caught:
        load(environ | {"RMQ_PASS_FILE": str(path)}, AllSettings)
    assert [problem.path for problem in caught.value.problems] == ["RMQ_PASS_FILE"]


@given(user=st.text(min_size=1), password=st.text(), vhost=st.text(min_size=1))
def test_the_broker_url_carries_any_user_password_and_vhost(user: str, password: str, vhost: str) -> None:
    texts = [text.encode("utf-8", "ignore").decode().strip() for text in (user, password, vhost)]
    if not texts[0] or not texts[2]:
        return
    settings = load(BASE | {"RMQ_USER": texts[0], "RMQ_PASS": texts[1], "RMQ_VHOST": texts[2]}, AllSettings)
    parts = urlsplit(settings.rmq_url)
    assert (parts.hostname, parts.port) == ("mq", 5672)
    assert [unquote(parts.username or ""), unquote(parts.password or ""), unquote(parts.path[1:])] == texts


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_broker_may_have_an_ipv6_address(host: str) -> None:
    assert accepted(RMQ_HOST=host).rmq_url == f"amqp://dtq:{SECRET}@[::1]:5672/%2F"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("8080", ("0.0.0.0", 8080)),
        (":8080", ("0.0.0.0", 8080)),
        ("127.0.0.1:1", ("127.0.0.1", 1)),
        ("[::1]:8080", ("::1", 8080)),
    ],
)
def test_an_address_to_listen_on_has_a_host_or_not(text: str, address: tuple[str, int]) -> None:
    assert accepted(HTTP_PORT=text).http_port == address


def test_an_unknown_variable_of_ours_is_named_and_others_are_nobodys_business() -> None:
    environ = BASE | {"DTQ_LOG_LEVLE": "debug", "DTQ_LOG_LEVEL": "debug", "DTQ_LOG_FORMAT_FILE": "/x", "HOME": "/"}
    assert unknown_names(environ) == ["DTQ_LOG_LEVLE"]


def test_what_is_in_force_is_shown_without_secrets() -> None:
    settings = accepted(DB_DSN=f"postgres://u:{SECRET}@h/d?sslpassword={SECRET}&sslmode=require")
    shown = masked(settings)
    assert SECRET not in repr(shown) + repr(settings) + str(settings)
    assert list(shown) == list(variable_names())
    assert shown["DB_DSN"] == f"postgres://u:{MASK}@h/d?sslpassword={MASK}&sslmode=require"
    assert shown["RMQ_PASS"] == MASK
    assert shown["HTTP_PORT"] == "0.0.0.0:8080"
    assert shown["BACKOFFS"] == "5s,30s,120s,600s,3600s"


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"]), min_size=12, max_size=20))
def test_a_masked_dsn_never_holds_its_password(password: str) -> None:
    assert password not in mask_dsn(f"postgres://user:{password}@host:5432/db?password={password}")


@given(st.integers())
def test_a_mistake_never_shows_a_secret(seed: int) -> None:
    chance = random.Random(seed)
    text = list(BASE["DB_DSN"])
    for _ in range(chance.randint(1, 4)):
        text[chance.randrange(12)] = chance.choice("[]/:@#?% \u2100x")
    assert SECRET not in complaint(BASE | {"DB_DSN": "".join(text)})


def refused_for_the_api(**changes: str) -> dict[str, str]:
    """Return the problems of an environment for `dtq api`, by variable name."""
    with pytest.raises(Rejected) as caught:
        load(BASE | changes, ApiSettings)
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("address", ["8080", "0.0.0.0:8080", "[::]:8080", "10.0.0.7:8080", "api.example.com:8080"])
def test_an_api_that_others_reach_must_ask_who_calls(address: str) -> None:
    problems = refused_for_the_api(HTTP_PORT=address)
    assert "DTQ_AUTH=on" in problems["DTQ_AUTH"]
    assert "HTTP_PORT=127.0.0.1:8080" in problems["DTQ_AUTH"]
    assert load(BASE | {"HTTP_PORT": address}, AllSettings).auth is Switch.OFF  # a worker's business it is not


@pytest.mark.parametrize("address", ["127.0.0.1:8080", "127.8.0.1:8080", "[::1]:8080", "localhost:8080"])
def test_an_api_that_only_this_machine_reaches_need_not_ask(address: str) -> None:
    assert load(BASE | {"HTTP_PORT": address}, ApiSettings).auth is Switch.OFF


def test_an_api_that_asks_needs_somebody_to_answer_for_callers() -> None:
    assert "DTQ_AUTH_TOKENS_FILE" in refused_for_the_api(DTQ_AUTH="on")["DTQ_AUTH"]
    for source in ({"DTQ_AUTH_TOKENS_FILE": "/x"}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}):
        assert load(BASE | source | {"DTQ_AUTH": "on"}, ApiSettings).auth is Switch.ON


def test_the_exposure_is_told_with_every_other_mistake() -> None:
    assert set(refused_for_the_api(RMQ_PORT="x", DTQ_METRICS_PORT="y")) == {
        "RMQ_PORT",
        "DTQ_METRICS_PORT",
        "DTQ_AUTH",
    }


def test_what_needs_postgres_alone_starts_without_credentials_of_rabbitmq() -> None:
    dsn = {"DB_DSN": BASE["DB_DSN"]}
    assert load(dsn, DatabaseSettings).dsn == BASE["DB_DSN"]
    with pytest.raises(Rejected) as caught:
        load({"RMQ_PORT": "x"}, DatabaseSettings)
    assert {problem.path for problem in caught.value.problems} == {"DB_DSN", "RMQ_PORT"}
    with pytest.raises(Rejected, match="RMQ_USER: is not set"):
        load(dsn, ApiSettings)


def test_a_variable_that_ends_with_file_is_known() -> None:
    assert unknown_names(BASE | {"DTQ_AUTH_TOKENS_FILE": "/x", "DTQ_AUTH_POLICY_FILE": "/y"}) == []

"""Settings: one frozen value per process, with the variable and the bounds of each field."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Self
from urllib.parse import quote, urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
)

from dtq.domain.backoff import Backoff, Strategy
from dtq.domain.dsn import parse_dsn
from dtq.domain.durations import parse_duration, parse_durations
from dtq.domain.limits import (
    BACKOFF_FACTOR_MAX,
    DELAY_SECONDS_MAX,
    DELAYS_MAX,
    PREFETCH_MAX,
    QUEUES_MAX,
    RELAY_GRACE_SECONDS,
    VHOST_CHARS_MAX,
)
from dtq.domain.names import ObjectName, Prefix, WorkQueueName
from dtq.runtime import failpoints

SERVICE_ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"


class WhenBrokerDown(StrEnum):
    """What `POST /enqueue` does while RabbitMQ does not answer."""

    REFUSE = "refuse"
    ACCEPT = "accept"


class Switch(StrEnum):
    """Whether something is done."""

    OFF = "off"
    ON = "on"


def _csv(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _address(value: object) -> object:
    """`8080`, `:8080` and `127.0.0.1:8080` are all addresses to listen on."""
    if not isinstance(value, str):
        return value
    host, _, port = value.rpartition(":")
    if "/" in host:
        # Kubernetes sets such a value for a Service of that name; enableServiceLinks: false prevents it.
        raise ValueError("is a URL: write a port, such as 8080, or an address and a port")
    return (host.strip("[]") or "0.0.0.0", port)  # noqa: S104 - a container listens on all of its interfaces


def _host(value: str) -> str:
    """A name or an address, without scheme, port or brackets."""
    bare = value[1:-1] if value.startswith("[") and value.endswith("]") else value
    if ":" in bare:
        try:
            ip_address(bare)
        except ValueError as error:
            raise ValueError("must be a name or an address alone: the port is RMQ_PORT") from error
    elif not re.fullmatch(r"[\w.-]+", bare):
        raise ValueError("must be a name or an address alone, without scheme, user or path")
    return bare


def _dsn(value: SecretStr) -> SecretStr:
    parse_dsn(value.get_secret_value())
    return value


def _distinct(value: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(value)) != len(value):
        raise ValueError("names a queue twice: keep one")
    return value


def _readable(value: Path) -> Path:
    if not os.access(value, os.R_OK):
        raise ValueError(f"names {value}, which cannot be read: check the mount")
    return value


def _failpoints(value: str) -> str:
    failpoints.parse(value)
    return value


Csv = Annotated[tuple[str, ...], BeforeValidator(_csv)]
Seconds = Annotated[
    float,
    BeforeValidator(lambda value: parse_duration(value) if isinstance(value, str) else value),
    Field(gt=0),
]
Delays = Annotated[
    tuple[Annotated[float, Field(gt=0, le=DELAY_SECONDS_MAX)], ...],
    BeforeValidator(lambda value: parse_durations(value) if isinstance(value, str) else value),
    Field(min_length=1, max_length=DELAYS_MAX),
]
Delay = Annotated[Seconds, Field(le=DELAY_SECONDS_MAX)]
Port = Annotated[int, Field(ge=0, le=65535)]
Address = Annotated[tuple[str, Port], BeforeValidator(_address)]
ReadableFile = Annotated[Path, AfterValidator(_readable)]
QueueNames = Annotated[
    tuple[WorkQueueName, ...],
    BeforeValidator(_csv),
    Field(min_length=1, max_length=QUEUES_MAX),
    AfterValidator(_distinct),
]


def is_loopback(host: str) -> bool:
    """Return whether `host` is reachable only from this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class DatabaseSettings(BaseModel):
    """The settings of a process that needs Postgres alone; the aliases are the variable names."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, extra="ignore", hide_input_in_errors=True)

    db_dsn: Annotated[SecretStr, AfterValidator(_dsn)] = Field(alias="DB_DSN")

    _files: Mapping[str, Path] = PrivateAttr(default_factory=dict)

    def with_files(self, files: Mapping[str, Path]) -> Self:
        """Store the file of each variable that came from a file: credentials are read again when they are used."""
        self._files = files
        return self

    @property
    def dsn(self) -> str:
        """The DSN with the password, as its file says now if it came from a file."""
        return self._now("DB_DSN", self.db_dsn.get_secret_value())

    def _now(self, variable: str, at_start: str) -> str:
        """Return a credential as its file says now: it may have been rotated since process start."""
        path = self._files.get(variable)
        try:
            return (path and path.read_text(encoding="utf-8").strip()) or at_start
        except (OSError, UnicodeDecodeError):
            return at_start  # a Secret that is being replaced: the caller connects again later


class CommonSettings(DatabaseSettings):
    """The settings of every long-lived process."""

    rmq_user: str = Field(alias="RMQ_USER", min_length=1)
    rmq_pass: SecretStr = Field(alias="RMQ_PASS")
    rmq_host: Annotated[str, Field(min_length=1), AfterValidator(_host)] = Field(alias="RMQ_HOST")
    rmq_port: Port = Field(default=5672, alias="RMQ_PORT")
    rmq_vhost: str = Field(default="/", alias="RMQ_VHOST", min_length=1, max_length=VHOST_CHARS_MAX)
    rmq_tls: Annotated[str, Field(pattern="^(off|on)$")] = Field(default="off", alias="RMQ_TLS")
    rmq_ca_file: ReadableFile | None = Field(default=None, alias="RMQ_CA_FILE")
    rmq_frames: Annotated[str, Field(pattern="^(dtq|driver)$")] = Field(default="dtq", alias="RMQ_FRAMES")
    rmq_namespace: Prefix = Field(default="tasks", alias="RMQ_NAMESPACE")
    queue_set: ObjectName = Field(default="default", alias="DTQ_QUEUE_SET")
    queues: QueueNames = Field(default=("default",), alias="QUEUES")
    backoffs: Delays = Field(default=Backoff().delays_seconds, alias="BACKOFFS")
    publish_timeout_seconds: Annotated[Seconds, Field(le=RELAY_GRACE_SECONDS)] = Field(
        default=RELAY_GRACE_SECONDS, alias="PUBLISH_TIMEOUT"
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        default="info", alias="DTQ_LOG_LEVEL"
    )
    log_format: Annotated[str, Field(pattern="^(json|console)$")] = Field(default="json", alias="DTQ_LOG_FORMAT")
    failpoints: Annotated[str, AfterValidator(_failpoints)] = Field(default="", alias="DTQ_FAILPOINTS")

    @property
    def rmq_url(self) -> str:
        """The broker's URL with user and password, as their files say now if they came from files."""
        host = f"[{self.rmq_host}]" if ":" in self.rmq_host else self.rmq_host
        user = quote(self._now("RMQ_USER", self.rmq_user), safe="")
        password = quote(self._now("RMQ_PASS", self.rmq_pass.get_secret_value()), safe="")
        scheme = "amqps" if self.rmq_tls == "on" else "amqp"
        words = {
            **({"cafile": str(self.rmq_ca_file)} if self.rmq_ca_file else {}),
            **({"frames": "driver"} if self.rmq_frames == "driver" else {}),
        }
        query = f"?{urlencode(words)}" if words else ""
        return f"{scheme}://{user}:{password}@{host}:{self.rmq_port}/{quote(self.rmq_vhost, safe='')}{query}"


class BackoffSettings(CommonSettings):
    """Back-off of task types that declare none, for processes that decide about ended attempts."""

    backoff_strategy: Annotated[str, Field(pattern="^(list|fixed|exponential)$")] = Field(
        default="list", alias="BACKOFF_STRATEGY"
    )
    backoff_fixed: Delay = Field(default=Backoff().delay_seconds, alias="BACKOFF_FIXED")
    backoff_base: Delay = Field(default=Backoff().base_seconds, alias="BACKOFF_BASE")
    backoff_factor: float = Field(default=Backoff().factor, alias="BACKOFF_FACTOR", ge=1, le=BACKOFF_FACTOR_MAX)
    backoff_max: Delay = Field(default=Backoff().max_seconds, alias="BACKOFF_MAX", validate_default=True)
    backoff_jitter: float = Field(default=0.0, alias="BACKOFF_JITTER", ge=0, le=1)

    @field_validator("backoff_max")
    @classmethod
    def _maximum_is_above_the_base(cls, value: float, info: ValidationInfo) -> float:
        if value < info.data.get("backoff_base", 0.0):
            raise ValueError("is below BACKOFF_BASE: raise it")
        return value

    @property
    def backoff(self) -> Backoff:
        """The back-off of task types that declare none."""
        return Backoff(
            strategy=Strategy[self.backoff_strategy.upper()],
            delays_seconds=self.backoffs,
            delay_seconds=self.backoff_fixed,
            base_seconds=self.backoff_base,
            factor=self.backoff_factor,
            max_seconds=self.backoff_max,
            jitter_percent=self.backoff_jitter * 100.0,
        )


class MaintenanceSettings(BackoffSettings):
    """The settings of the maintenance roles, wherever they run."""

    events_retention_days: int = Field(default=30, alias="EVENTS_RETENTION_DAYS", ge=1, le=3650)
    maintenance_http_port: Address = Field(default=("0.0.0.0", 8083), alias="DTQ_MAINTENANCE_HTTP_PORT")  # noqa: S104


class ApiSettings(MaintenanceSettings):
    """The settings of the API."""

    http_port: Address = Field(default=("0.0.0.0", 8080), alias="HTTP_PORT")  # noqa: S104
    metrics_port: Address | None = Field(default=None, alias="DTQ_METRICS_PORT")
    tls_cert_file: ReadableFile | None = Field(default=None, alias="DTQ_TLS_CERT_FILE")
    tls_key_file: ReadableFile | None = Field(default=None, alias="DTQ_TLS_KEY_FILE", validate_default=True)
    api_maintenance: Switch = Field(default=Switch.ON, alias="DTQ_API_MAINTENANCE")
    enqueue_when_broker_down: WhenBrokerDown = Field(default=WhenBrokerDown.REFUSE, alias="ENQUEUE_WHEN_BROKER_DOWN")
    caller_requests_per_second: int = Field(default=1_000, alias="DTQ_CALLER_REQUESTS_PER_SECOND", ge=1, le=1_000_000)
    caller_requests_at_once: int = Field(default=8, alias="DTQ_CALLER_REQUESTS_AT_ONCE", ge=1, le=10_000)
    caller_lists: int = Field(default=2, alias="DTQ_CALLER_LISTS", ge=1, le=100)
    auth_tokens_file: Path | None = Field(default=None, alias="DTQ_AUTH_TOKENS_FILE")
    auth_policy_file: Path | None = Field(default=None, alias="DTQ_AUTH_POLICY_FILE")
    auth_audience: str = Field(default="dtq", alias="DTQ_AUTH_AUDIENCE", pattern=r"^[!-~]{1,253}$")
    auth_service_account: Path = Field(default=Path(SERVICE_ACCOUNT), alias="DTQ_AUTH_SERVICE_ACCOUNT")
    kubernetes_host: Annotated[str, AfterValidator(_host)] | None = Field(default=None, alias="KUBERNETES_SERVICE_HOST")
    kubernetes_port: Port = Field(default=443, alias="KUBERNETES_SERVICE_PORT")
    auth: Switch = Field(default=Switch.OFF, alias="DTQ_AUTH", validate_default=True)

    @field_validator("tls_key_file")
    @classmethod
    def _key_has_its_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        # A certificate file that cannot be read has been reported, and is missing here.
        if "tls_cert_file" in info.data and (value is None) is not (info.data["tls_cert_file"] is None):
            raise ValueError("and DTQ_TLS_CERT_FILE belong together: set both, or none")
        return value

    @field_validator("auth")
    @classmethod
    def _who_calls_is_known(cls, value: Switch, info: ValidationInfo) -> Switch:
        if info.context is not ApiSettings:
            return value
        host, port = info.data.get("http_port", ("localhost", 0))
        if value is Switch.OFF and not is_loopback(host):
            raise ValueError(
                f"is off while the API listens on {host}:{port}, which others can reach: set DTQ_AUTH=on with"
                " DTQ_AUTH_TOKENS_FILE (not needed in a cluster, which has ServiceAccount tokens), or listen on"
                f" HTTP_PORT=127.0.0.1:{port}"
            )
        if value is Switch.ON and info.data.get("auth_tokens_file") is None and not info.data.get("kubernetes_host"):
            raise ValueError(
                "is on, but no caller is known: set DTQ_AUTH_TOKENS_FILE (`dtq token NAME` prints a line for it),"
                " or run in a cluster, where ServiceAccount tokens are reviewed"
            )
        return value


class WorkerSettings(BackoffSettings):
    """The settings of a worker."""

    worker_prefetch: int = Field(default=32, alias="WORKER_PREFETCH", ge=1, le=PREFETCH_MAX)
    worker_concurrency: int | None = Field(default=None, alias="WORKER_CONCURRENCY", ge=1, le=PREFETCH_MAX)
    worker_handlers: Csv = Field(default=(), alias="WORKER_HANDLERS")
    worker_http_port: Address = Field(default=("0.0.0.0", 8081), alias="WORKER_HTTP_PORT")  # noqa: S104
    worker_drain_seconds: Seconds = Field(default=30.0, alias="WORKER_DRAIN")

    @property
    def concurrency(self) -> int:
        """How many handlers one worker runs at a time: WORKER_CONCURRENCY, else the prefetch."""
        return self.worker_concurrency or self.worker_prefetch


class OperatorSettings(CommonSettings):
    """The settings of the operator."""

    watch_namespaces: Csv = Field(default=(), alias="DTQ_WATCH_NAMESPACES")
    bootstrap_file: Path | None = Field(default=None, alias="DTQ_BOOTSTRAP_FILE")
    resync_seconds: Seconds = Field(default=60.0, alias="DTQ_RESYNC_SECONDS")
    delete_give_up_seconds: Seconds = Field(default=900.0, alias="DTQ_DELETE_GIVE_UP")
    operator_http_port: Address = Field(default=("0.0.0.0", 8082), alias="DTQ_OPERATOR_HTTP_PORT")  # noqa: S104


class AllSettings(ApiSettings, WorkerSettings, OperatorSettings):
    """The settings of all processes, for `dtq config` and for tests; rules of a single process are not applied."""

"""Reads the environment variables once, and reports all mistakes together.

No other module reads the environment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from pydantic import SecretStr, ValidationError

from dtq.domain.errors import Problem, Rejected
from dtq.runtime.settings import AllSettings, DatabaseSettings

MASK: Final = "********"
_NOT_SECRET: Final = frozenset(
    [
        "host",
        "hostaddr",
        "port",
        "dbname",
        "user",
        "sslmode",
        "sslrootcert",
        "channel_binding",
        "connect_timeout",
        "target_session_attrs",
    ]
)
"""Parameters of a DSN whose values are shown."""
_FILE_SUFFIX: Final = "_FILE"
S = TypeVar("S", bound=DatabaseSettings)


def load(environ: Mapping[str, str], kind: type[S]) -> S:
    """Return the settings of one process from the environment.

    `NAME_FILE` names a file that holds the value of `NAME`, as mounted Secrets do.

    Raises:
        Rejected: one problem per mistake; no value is shown.
    """
    values, problems = _with_files(environ)
    try:
        # Mistakes in other processes' variables are reported too: the environment is usually shared.
        AllSettings.model_validate(values, context=kind)
    except ValidationError as error:
        told = {problem.path.removesuffix(_FILE_SUFFIX) for problem in problems}
        problems += [
            Problem(path=name, message=_text(part))
            for part in error.errors(include_input=False, include_url=False)
            if (name := _variable(part["loc"][0])) not in told
            # What only other processes need may be absent: `dtq migrate` runs without RabbitMQ's credentials.
            and not (part["type"] == "missing" and name not in _names_of(kind))
        ]
    if problems:
        listing = "\n".join(f"  {problem.path}: {problem.message}" for problem in problems)
        raise Rejected(
            "InvalidSettings", f"the environment has {len(problems)} mistake(s):\n{listing}", tuple(problems)
        )
    settings = kind.model_validate(values, context=kind)
    return settings.with_files(
        {name: Path(environ[name + _FILE_SUFFIX]) for name in variable_names() if name + _FILE_SUFFIX in environ}
    )


def unknown_names(environ: Mapping[str, str]) -> list[str]:
    """Return the `DTQ_*` variables that no setting reads: they are probably misspelt."""
    known = set(variable_names())
    return sorted(
        name
        for name in environ
        if name.startswith("DTQ_") and name not in known and name.removesuffix(_FILE_SUFFIX) not in known
    )


def variable_names() -> tuple[str, ...]:
    """Return every variable that is read, in the order of declaration."""
    return _names_of(AllSettings)


def masked(settings: AllSettings) -> dict[str, str]:
    """Return the settings in force, by variable name, with the secrets masked."""
    shown: dict[str, str] = {}
    for name, field in AllSettings.model_fields.items():
        shown[str(field.alias)] = _shown(name, getattr(settings, name))
    return shown


def _shown(name: str, value: Any) -> str:
    if name == "db_dsn":
        return mask_dsn(value.get_secret_value())
    if isinstance(value, SecretStr):
        return MASK
    if name.endswith("_port") and isinstance(value, tuple):
        return f"{value[0]}:{value[1]}"
    if isinstance(value, tuple):
        return ",".join(f"{part:g}s" if isinstance(part, float) else str(part) for part in value)
    return "" if value is None else str(value)


def mask_dsn(dsn: str) -> str:
    """Return a DSN without its password and without the values of parameters that may hold a secret."""
    parts = urlsplit(dsn)
    user, at, host = parts.netloc.rpartition("@")
    user = user.split(":", 1)[0] + f":{MASK}" if ":" in user else user
    query = "&".join(
        f"{key}={value if key in _NOT_SECRET else MASK}"
        for key, _, value in (pair.partition("=") for pair in parts.query.split("&") if pair)
    )
    return urlunsplit((parts.scheme, f"{user}{at}{host}", parts.path, query, ""))


def _with_files(environ: Mapping[str, str]) -> tuple[dict[str, str], list[Problem]]:
    values: dict[str, str] = {}
    problems: list[Problem] = []
    for name in variable_names():
        path = environ.get(name + _FILE_SUFFIX)
        if path is not None and name in environ:
            problems.append(Problem(path=name, message=f"both {name} and {name}_FILE are set: remove one"))
        elif path is not None:
            try:
                values[name] = Path(path).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                problems.append(Problem(path=f"{name}_FILE", message=f"cannot be read ({reason}): check the mount"))
        elif name in environ:
            values[name] = environ[name].strip()
    return values, problems


def _names_of(kind: type[DatabaseSettings]) -> tuple[str, ...]:
    return tuple(str(field.alias) for field in kind.model_fields.values())


def _variable(name: object) -> str:
    """Return the variable of a field: pydantic reports an invalid default under the field's name."""
    field = AllSettings.model_fields.get(str(name))
    return str(field.alias if field else name)


def _text(part: Any) -> str:
    if part["type"] == "missing":
        return "is not set: set it"
    return str(part["msg"]).removeprefix("Value error, ")

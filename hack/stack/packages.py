"""The packages that the servers and the tests need.

A package makes no cluster and starts no service: we run instances of our own.
"""

from pathlib import Path

from hack.lib import apt
from hack.lib.errors import HackError
from hack.stack import postgres, rabbitmq

NO_CLUSTER = {Path("/etc/postgresql-common/createcluster.d/dtq.conf"): "create_main_cluster = false\n"}
UNITS = {
    "postgresql": ("postgresql",),
    "rabbitmq-server": ("rabbitmq-server", "epmd.socket", "epmd.service"),
    "prometheus": ("prometheus",),
    "pgbouncer": ("pgbouncer",),
}
# Package and the program of it that is used: clocks that are wrong, alert rules that are tried out, and a pooler.
FOR_TESTS = {"faketime": "faketime", "prometheus": "promtool", "pgbouncer": "pgbouncer"}


def missing() -> list[str]:
    """Return the packages of the servers that are not installed."""
    found = {"postgresql": postgres.binaries(), "rabbitmq-server": rabbitmq.program()}
    return [name for name, path in found.items() if path is None]


def ensure(log: Path, *, for_tests: bool = False) -> None:
    """Install what is missing, showing progress; nothing is started."""
    names = _wanted(for_tests=for_tests)
    if not names:
        return
    apt.install(log, names, settings=NO_CLUSTER)
    apt.disable([unit for name in names for unit in UNITS.get(name, ())])
    if left := _wanted(for_tests=for_tests):
        raise HackError(f"apt-get ended well, but {', '.join(left)} cannot be found.", log=log)


def _wanted(*, for_tests: bool) -> list[str]:
    return missing() + (apt.missing(FOR_TESTS) if for_tests else [])

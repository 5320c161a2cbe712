"""Owns the installation of the servers from Debian's packages.

It must never let a package start a service or make a cluster: we bring instances of our own.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hack.stack import postgres, rabbitmq, report
from hack.stack.errors import StackError

POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# dtq: packages may be installed, services may not be started.\nexit 101\n"
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/dtq.conf")
NO_CLUSTER_TEXT = "create_main_cluster = false\n"
UNITS = {
    "postgresql": ("postgresql",),
    "rabbitmq-server": ("rabbitmq-server", "epmd.socket", "epmd.service"),
    "prometheus": ("prometheus",),
    "pgbouncer": ("pgbouncer",),
}
# Package and the program of it that is used: clocks that are wrong, alert rules that are tried out, and a pooler.
FOR_TESTS = {"faketime": "faketime", "prometheus": "promtool", "pgbouncer": "pgbouncer"}
PROGRESS = re.compile(r"^(?:Get:\d+ \S+ |(?=Unpacking |Setting up ))(\S.*?)(?: \.\.\.)?$")


def missing() -> list[str]:
    """The packages that are still to be installed."""
    found = {"postgresql": postgres.binaries(), "rabbitmq-server": rabbitmq.program()}
    return [name for name, path in found.items() if path is None]


def missing_for_tests() -> list[str]:
    """The packages that the tests need besides and that are still to be installed."""
    return [name for name, program in FOR_TESTS.items() if shutil.which(program) is None]


def ensure(log: Path, *, for_tests: bool = False) -> None:
    """Install what is missing, showing progress; nothing is started."""
    names = missing() + (missing_for_tests() if for_tests else [])
    if not names:
        return
    if shutil.which("apt-get") is None:
        raise StackError(
            f"not installed: {', '.join(names)}; and this system has no apt-get.",
            fix="install Postgres and RabbitMQ by hand, or run a Docker engine, and try again.",
        )
    with (
        report.step(f"Installing {' and '.join(names)} with apt-get (once per machine)"),
        ExitStack() as guards,
    ):
        guards.enter_context(_guard(POLICY, POLICY_TEXT, mode=0o755))
        guards.enter_context(_guard(NO_CLUSTER, NO_CLUSTER_TEXT, mode=0o644))
        _apt(["update"], log)
        _apt(["install", "-y", "--no-install-recommends", *names], log)
        _disable([unit for name in names for unit in UNITS.get(name, ())])
    left = missing() + (missing_for_tests() if for_tests else [])
    if left:
        raise StackError(f"apt-get ended well, but {', '.join(left)} cannot be found.", log=log)


def _as_root(*argv: str) -> list[str]:
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo") is None:
        raise StackError(
            "the servers must be installed first, which needs root, and there is no sudo.",
            fix="as root: `apt-get install postgresql rabbitmq-server`, then try again.",
        )
    return ["sudo", *argv]


def _apt(arguments: list[str], log: Path) -> None:
    command = _as_root(
        *("env", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C.UTF-8"),
        *("apt-get", "-q", "-o", "DPkg::Lock::Timeout=120", *arguments),
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("a") as record,
        subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as running,
    ):
        assert running.stdout is not None
        for line in running.stdout:
            record.write(line)
            record.flush()
            if progress := PROGRESS.match(line):
                report.progress(progress[1])
    if running.returncode:
        raise StackError(
            f"`apt-get {' '.join(arguments)}` failed.",
            log=log,
            fix="see the log; if a package list is stale or a mirror is down, run it again in a while.",
        )


@contextmanager
def _guard(path: Path, text: str, *, mode: int) -> Iterator[None]:
    """Put a file in place for the time of the installation; what stood there comes back."""
    kept = path.with_name(path.name + ".before-dtq")
    if path.exists():
        _run(*_as_root("mv", "--no-clobber", str(path), str(kept)))
    _run(*_as_root("mkdir", "-p", str(path.parent)))
    _run(*_as_root("tee", str(path)), text=text)
    _run(*_as_root("chmod", f"{mode:o}", str(path)))
    try:
        yield
    finally:
        _run(*_as_root("rm", "-f", str(path)))
        if kept.exists():
            _run(*_as_root("mv", str(kept), str(path)))


def _disable(units: list[str]) -> None:
    """Keep services that we brought from starting at the next boot; ports of the system stay as they were."""
    if shutil.which("systemctl"):
        for unit in units:
            subprocess.run(_as_root("systemctl", "disable", "--quiet", unit), capture_output=True, check=False)


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")

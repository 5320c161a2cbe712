"""Owns the distribution's packages that a native node needs: installed if missing, never removed.

Must never let a package start a service: the cluster starts its own containerd, in its own folder.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hack.cluster.report import ClusterError, step

INSTALL_TIMEOUT_SECONDS = 600.0
# Packages ask this program whether a service may start; 101 means no.
POLICY = Path("/usr/sbin/policy-rc.d")
REFUSE_ALL = "#!/bin/sh\nexit 101\n"


def missing(packages: Mapping[str, str]) -> list[str]:
    """The packages whose command is not on this machine."""
    return [name for name, command in packages.items() if shutil.which(command) is None]


def ensure(log: Path, packages: Mapping[str, str]) -> None:
    """Install what is missing of the packages, given with the command that shows that each is there."""
    wanted = missing(packages)
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise ClusterError(
            f"{', '.join(wanted)} is missing, and there is no apt-get",
            next_step="install what they are called on this distribution",
        )
    with step(f"install {' '.join(wanted)}"), _no_service_starts():
        _apt_get(["update"], log)
        _apt_get(["install", "--yes", "--no-install-recommends", *wanted], log)
    if missing(packages):
        raise ClusterError(f"installed, and still missing: {', '.join(missing(packages))}", log=log)


def _apt_get(arguments: list[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as output:
        done = subprocess.run(
            ["apt-get", "--quiet", *arguments],
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_TIMEOUT_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        raise ClusterError(f"apt-get {arguments[0]} failed", log=log, next_step="run it by hand")


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """Refuse service starts while packages are installed; a policy that is there is the machine's own."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text(REFUSE_ALL)
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()

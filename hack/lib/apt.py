"""Installs missing Debian packages, and removes none.

Never lets a package start a service: the programs of hack/ run instances of their own.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hack.lib import report
from hack.lib.errors import HackError

# Packages run this program to learn whether a service may start; 101 means no.
POLICY = Path("/usr/sbin/policy-rc.d")
POLICY_TEXT = "#!/bin/sh\n# dtq: packages may be installed, services may not be started.\nexit 101\n"
PROGRESS = re.compile(r"^(?:Get:\d+ \S+ |(?=Unpacking |Setting up ))(\S.*?)(?: \.\.\.)?$")


def missing(packages: Mapping[str, str]) -> list[str]:
    """Return the packages that are missing; each is given with a program or file of it."""
    return [name for name, program in packages.items() if shutil.which(program) is None]


def ensure(log: Path, packages: Mapping[str, str]) -> None:
    """Install the missing packages; each is given with a program or file of it."""
    names = missing(packages)
    if not names:
        return
    install(log, names)
    if left := missing(packages):
        raise HackError(f"apt-get ended well, but {', '.join(left)} cannot be found.", log=log)


def install(log: Path, names: list[str], *, settings: Mapping[Path, str] | None = None) -> None:
    """Install packages, showing progress; `settings` are files of the system for the time of the installation."""
    if shutil.which("apt-get") is None:
        raise HackError(
            f"not installed: {', '.join(names)}; and this system has no apt-get.",
            next_step="install by hand what they are called on this system, and try again.",
        )
    with report.step(f"Installing {' and '.join(names)} with apt-get (once per machine)"), ExitStack() as guards:
        guards.enter_context(_put(POLICY, POLICY_TEXT, mode=0o755))
        for path, text in (settings or {}).items():
            guards.enter_context(_put(path, text, mode=0o644))
        _apt_get(["update"], log)
        _apt_get(["install", "-y", "--no-install-recommends", *names], log)


def disable(units: list[str]) -> None:
    """Disable the services of installed packages, so that the next boot does not start them."""
    if shutil.which("systemctl"):
        for unit in units:
            subprocess.run(_as_root("systemctl", "disable", "--quiet", unit), capture_output=True, check=False)


def _as_root(*argv: str) -> list[str]:
    if os.geteuid() == 0:
        return list(argv)
    if shutil.which("sudo") is None:
        raise HackError(
            "packages must be installed first, which needs root, and there is no sudo.",
            next_step="run it as root once, or install them by hand; then try again.",
        )
    return ["sudo", *argv]


def _apt_get(arguments: list[str], log: Path) -> None:
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
        raise HackError(
            f"`apt-get {' '.join(arguments)}` failed.",
            log=log,
            next_step="see the log; if a package list is stale or a mirror is down, run it again in a while.",
        )


@contextmanager
def _put(path: Path, text: str, *, mode: int) -> Iterator[None]:
    """Put a file in place for the time of the installation, and restore the former one."""
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


def _run(*command: str, text: str = "") -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HackError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")

"""Builds pinned Go programs through the cache.

Writes only to the cache's own folders. A module that does not match its checksums is an error (`-mod=readonly`).
"""

import json
import os
import subprocess
from collections.abc import Iterable
from functools import cache as memoised
from pathlib import Path

from hack.cluster.native import versions
from hack.lib import cache, commands
from hack.lib.errors import HackError
from hack.lib.report import step

BUILD_FLAGS = ("-trimpath", "-buildvcs=false")
# A build must not slow down other work on the machine.
NICE = ("nice", "-n", "10")
INSTALL_GO = "install Go (https://go.dev/dl), 1.26 or newer"
# A busy machine takes many times as long as an idle one.
BUILD_TIMEOUT_SECONDS = 3600.0


def ensure(names: Iterable[str], folder: Path | None = None) -> dict[str, Path]:
    """Return the path of each program; build those that the cache does not have."""
    return {name: _ensure(versions.program(name), folder or cache.default_folder("cluster")) for name in names}


def source(module: versions.Module) -> Path:
    """Return the folder of a pinned module's source, fetched if it is missing: read-only, with its manifests."""
    commands.require("go", INSTALL_GO)
    wanted = f"{module.path}@{module.version}"
    command = ["go", "mod", "download", "-json", wanted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_SECONDS, check=False)
    if done.returncode != 0:
        raise HackError(f"go could not fetch {wanted}: {done.stdout}{done.stderr}".strip())
    return Path(json.loads(done.stdout)["Dir"])


def key_of(program: versions.Program, toolchain: str) -> str:
    """Return the content key of a program: the package, its source, the flags and the toolchain."""
    facts = (program.package, program.module.version, program.ldflags, *program.module.tags, *BUILD_FLAGS, toolchain)
    if program.module.build == "install":
        return cache.content_key(facts, ())
    sources = (file for file in program.module.folder.iterdir() if file.suffix in {".mod", ".sum", ".go"})
    return cache.content_key(facts, sources)


@memoised
def go_toolchain() -> str:
    """Return the Go toolchain and its platform, in its own words."""
    go = commands.require("go", INSTALL_GO)
    asked = [go, "env", "GOVERSION", "GOOS", "GOARCH"]
    return " ".join(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split())


def _ensure(program: versions.Program, folder: Path) -> Path:
    def build(place: Path) -> None:
        with step(f"build {program.name} {program.module.version}"):
            _build(program, place, folder / f"{program.name}.log")

    return cache.entry(folder, program.name, key_of(program, go_toolchain()), build) / program.name


def _build(program: versions.Program, place: Path, log: Path) -> None:
    environ = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOBIN": str(place)}
    flags = [*BUILD_FLAGS, *program.flags]
    if program.module.build == "install":
        command = ["go", "install", *flags, f"{program.package}@{program.module.version}"]
        where = place  # outside any checkout, so that no go.mod applies
    else:
        command = ["go", "build", "-mod=readonly", *flags, "-o", str(place / program.name), program.package]
        where = program.module.folder
    with log.open("w") as output:
        done = subprocess.run(
            [*NICE, *command],
            cwd=where,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=False,
        )
    if done.returncode != 0:
        next_step = f"run it by hand in {where}: CGO_ENABLED=0 {' '.join(command)}"
        raise HackError(f"go could not build {program.name}", log=log, next_step=next_step)

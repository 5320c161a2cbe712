"""Builds what a peer runs on, once for each content of its pinned requirements, below the cache of dtq.

Python peers get an environment each, since their requirements contradict one another; every download is pinned by hash.
"""

import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from hack.lib import cache, commands
from hack.lib.errors import HackError

HERE: Final = Path(__file__).parent
PYTHON_PEERS: Final = ("celery", "dramatiq", "taskiq", "procrastinate", "pgqueuer")
BUILD_SECONDS: Final = 600.0
"""Longest build of one environment, in seconds: downloads included."""


@functools.cache
def program(name: str) -> tuple[str, ...]:
    """Return the beginning of the command line that runs a peer's program; build what is missing, once.

    Raises:
        HackError: it could not be built.
    """
    folder = cache.default_folder("bench")
    if name in PYTHON_PEERS:
        requirements = HERE / "python" / f"{name}.txt"
        key = cache.content_key([sys.version], [requirements])
        place = cache.entry(folder, f"python-{name}", key, functools.partial(_python, requirements))
        return (str(place / "venv/bin/python"), "-m", f"bench.peers.programs.{name}_peer")
    if name == "river":
        files = [HERE / "river" / file for file in ("go.mod", "go.sum", "main.go")]
        key = cache.content_key(_says("go", "env", "GOVERSION", "GOOS", "GOARCH"), files)
        return (str(cache.entry(folder, name, key, _go) / "river"),)
    files = [HERE / "graphile" / file for file in ("package.json", "package-lock.json", "bench.mjs")]
    key = cache.content_key(_says("node", "--version"), files)
    return ("node", str(cache.entry(folder, name, key, functools.partial(_node, files)) / "bench.mjs"))


def _python(requirements: Path, place: Path) -> None:
    found = sorted(cache.default_folder("").glob("uv-*/bin/uv"))
    if not found:
        raise HackError("uv is not in the cache.", next_step="run `hack/bootstrap`, which puts it there.")
    uv = str(found[-1])
    # The folder is renamed into place once it is complete.
    _run(place, uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, "venv")
    interpreter = str(place / "venv/bin/python")
    _run(place, uv, "pip", "sync", "--quiet", "--require-hashes", "--python", interpreter, str(requirements))


def _go(place: Path) -> None:
    commands.require("go", "install Go: https://go.dev/dl")
    _run(HERE / "river", "go", "build", "-mod=readonly", "-o", str(place / "river"), ".")


def _node(files: list[Path], place: Path) -> None:
    commands.require("npm", "install Node.js 20 or later, with npm")
    for file in files:
        shutil.copy(file, place)
    _run(place, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def _says(*command: str) -> list[str]:
    commands.require(command[0], f"install {command[0]}, or leave its peer out: --without")
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def _run(folder: Path, *command: str) -> None:
    environ = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"}
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
    )
    if done.returncode:
        raise HackError(
            f"`{' '.join(command)}` failed: {done.stderr.strip()[-500:]}",
            next_step="check the network, and that the pinned versions still exist.",
        )

"""What a reader must know beside the figures: machine, versions, commit, settings, configuration."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.contestants import DTQ, Contestant
from bench.peers.environments import HERE
from bench.raw_limits import RAW

ROOT: Final = Path(__file__).resolve().parents[1]
SHOWN_PACKAGES: Final = (
    "celery", "kombu", "sqlalchemy", "psycopg", "dramatiq", "pika", "taskiq", "taskiq-aio-pika", "taskiq-postgres",
    "aio-pika", "asyncpg", "procrastinate", "pgqueuer", "uvloop",
)  # fmt: skip


class Steal:
    """How much of the machine its host took away, since this was made."""

    def __init__(self) -> None:
        self._before = _ticks()

    def share(self) -> float:
        """Return the share of all CPU time."""
        spent = [now - before for now, before in zip(_ticks(), self._before, strict=True)]
        return round(spent[7] / sum(spent), 4)


def facts(
    began: float,
    sizes: dict[str, float],
    contestants: Sequence[Contestant],
    servers: dict[str, Any],
    steal: float,
) -> dict[str, Any]:
    """Return everything but figures."""
    return {
        "date": datetime.fromtimestamp(began, UTC).strftime("%Y-%m-%d"),
        "minutes": round((time.time() - began) / 60, 1),
        "sizes": sizes,
        "commit": _commit(),
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_GB": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "steal": steal,
        },
        "servers": servers,
        "contestants": {
            who.name: {"stores": who.stores, "versions": versions(who), "configuration": list(who.configuration)}
            for who in contestants
        },
        "limits": RAW,
    }


def versions(contestant: Contestant) -> str:
    """Return the pinned versions of what decides a contestant's speed."""
    if contestant.name == DTQ:
        return "this commit"
    if contestant.environment == "river":
        found = re.findall(r"^\t(\S*/(?:river|pgx/v5)) (v\S+)$", (HERE / "river/go.mod").read_text(), re.MULTILINE)
        return ", ".join(f"{name.removeprefix('github.com/')} {version}" for name, version in found)
    if contestant.environment == "graphile":
        found = re.findall(r'"(graphile-worker|pg)": "(\S+)"', (HERE / "graphile/package.json").read_text())
    else:
        text = (HERE / "python" / f"{contestant.environment}.txt").read_text()
        found = [pin for pin in re.findall(r"^(\S+)==(\S+)", text, re.MULTILINE) if pin[0] in SHOWN_PACKAGES]
    return ", ".join(f"{name} {version}" for name, version in found)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip() or "unknown"


def _cpu_model() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _ticks() -> list[int]:
    return [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]

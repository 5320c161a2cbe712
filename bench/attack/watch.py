"""Watches the attacked processes: their memory, and how long `/livez` takes to answer."""

import asyncio
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any, Final, Self

from bench.attack.client import Client

WATCH_SECONDS: Final = 0.2
"""Pause between two looks, in seconds."""


class Watch:
    """The worst of what was seen since the last `reset`.

    Args:
        port: the API's port.
        pids: the watched processes, by name.
    """

    def __init__(self, port: int, pids: dict[str, int]) -> None:
        self._port = port
        self._pids = pids
        self.reset()

    def reset(self) -> None:
        """Forget what was seen."""
        self.livez_seconds = 0.0
        self.rss_mib: dict[str, int] = dict.fromkeys(self._pids, 0)
        self._children_mib = 0

    async def __aenter__(self) -> Self:
        """Start to watch."""
        self._loops = [asyncio.create_task(self._watch_livez()), asyncio.create_task(self._watch_memory())]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop watching."""
        for loop in self._loops:
            loop.cancel()

    def figures(self) -> dict[str, Any]:
        """Return the figures to print."""
        return {
            "livez_max_ms": round(self.livez_seconds * 1e3, 1),
            "rss_max_MiB": self.rss_mib | {"payload checks of the api": self._children_mib},
        }

    async def _watch_livez(self) -> None:
        while True:
            client = Client("127.0.0.1", self._port)  # a new connection, as the kubelet makes
            began = perf_counter()
            status = await client.request("GET", "/livez")
            client.close()
            took = perf_counter() - began if status == "200" else float("inf")
            self.livez_seconds = max(self.livez_seconds, took)
            await asyncio.sleep(WATCH_SECONDS)

    async def _watch_memory(self) -> None:
        while True:
            for name, pid in self._pids.items():
                self.rss_mib[name] = max(self.rss_mib[name], _rss_mib(pid))
            self._children_mib = max(self._children_mib, sum(map(_rss_mib, _children(self._pids["api"]))))
            await asyncio.sleep(WATCH_SECONDS)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _rss_mib(pid: int) -> int:
    """Return the resident memory of a process; 0 if it has just ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) // 1024
    return 0

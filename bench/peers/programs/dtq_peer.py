"""dtq's client: HTTP to the API at BENCH_URL."""

import asyncio
import json
import os

from bench.http_connection import HttpConnection
from bench.peers.programs.load import COROUTINES, main_async

TYPE = "bench.noop.v1"
CREATED = 201
SUCCESSES = range(200, 300)


class Peer:
    """Connections for as many concurrent calls as the load makes."""

    async def open(self) -> None:
        """Connect."""
        self._idle: asyncio.Queue[HttpConnection] = asyncio.Queue()
        for _ in range(COROUTINES):
            self._idle.put_nowait(await HttpConnection.open(os.environ["BENCH_URL"]))

    async def close(self) -> None:
        """Disconnect."""
        while not self._idle.empty():
            self._idle.get_nowait().close()

    async def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        status, answer = await self._post("/enqueue", {"type": TYPE, "payload": payload})
        if status != CREATED:
            raise RuntimeError(f"POST /enqueue answered {status}: {answer[:200]!r}")

    async def many(self, payloads: list[dict[str, int]]) -> None:
        """Enqueue many in one request."""
        status, answer = await self._post("/enqueue/bulk", [{"type": TYPE, "payload": each} for each in payloads])
        if status not in SUCCESSES or json.loads(answer)["accepted"] != len(payloads):
            raise RuntimeError(f"POST /enqueue/bulk answered {status}: {answer[:200]!r}")

    async def _post(self, path: str, content: object) -> tuple[int, bytes]:
        connection = await self._idle.get()
        try:
            return await connection.post(path, json.dumps(content).encode())
        finally:
            self._idle.put_nowait(connection)


if __name__ == "__main__":
    main_async(Peer())

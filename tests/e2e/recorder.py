"""Records what pods report while the suite breaks things: every line is on this machine's disk before it is answered.

It hands out the orders that the client pod enqueues, and asks again for those that were not accepted. It is not on
the data plane's path: dtq does not know it.
"""

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec

from hack.cluster import config
from tests.faults.history import Call, Lines, Run

ORDER_SECONDS = 5.0
"""How long a client waits for an order before it asks again."""


class Recorder:
    """The lines that were written, and the orders that wait."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[Call] = []
        self.runs: list[Run] = []
        self.url = ""
        self._client: Lines[Call] = Lines(folder / "client.jsonl")
        self._handler: Lines[Run] = Lines(folder / "handler.jsonl")
        self._orders: queue.Queue[dict[str, Any]] = queue.Queue()
        self._lock = threading.Lock()
        self._ordered = 0
        self._accepted: set[str] = set()

    def order(self, type_: str, payload: dict[str, Any]) -> None:
        """Have a task enqueued; it is asked for again, by its key, until it is accepted."""
        with self._lock:
            self._ordered += 1
            n = self._ordered
        self._orders.put({"n": n, "type": type_, "payload": {**payload, "op": n}, "key": f"e2e-{n}"})

    @property
    def ordered(self) -> int:
        """How many tasks were ordered."""
        return self._ordered

    @property
    def accepted(self) -> int:
        """How many of them were accepted."""
        return len(self._accepted)

    @property
    def succeeded(self) -> int:
        """How many tasks have had a handler run to its end."""
        return len({run.task_id for run in self.runs if run.outcome == "succeeded"})

    def next_order(self) -> dict[str, Any] | None:
        """An order, or None when there is none for a while."""
        try:
            return self._orders.get(timeout=ORDER_SECONDS)
        except queue.Empty:
            return None

    def client(self, body: bytes) -> None:
        """Write a call down."""
        told = msgspec.json.decode(body, type=Call)
        with self._lock:
            call = replace(told, n=len(self.calls) + 1)
            self._client.write(call)
            self.calls.append(call)
            if call.status == HTTPStatus.CREATED:
                self._accepted.add(str(call.key))
            else:
                self._orders.put({"n": told.n, "type": call.type, "payload": call.payload, "key": call.key})

    def handler(self, body: bytes) -> None:
        """Write a handler's run down."""
        run = msgspec.json.decode(body, type=Run)
        with self._lock:
            self._handler.write(run)
            self.runs.append(run)


@contextmanager
def recording(folder: Path) -> Iterator[Recorder]:
    """A recorder that pods reach at the node's address."""
    recorder = Recorder(folder)
    server = ThreadingHTTPServer((config.NODE_ADDRESS, 0), _handler(recorder))
    recorder.url = f"http://{config.NODE_ADDRESS}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(recorder: Recorder) -> type[BaseHTTPRequestHandler]:
    writers = {"/client": recorder.client, "/handler": recorder.handler}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(HTTPStatus.OK, recorder.next_order())

        def do_POST(self) -> None:
            writers[self.path](self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(HTTPStatus.OK, {})

        def _answer(self, status: HTTPStatus, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler

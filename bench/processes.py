"""The measured processes. All of them end with the measurement."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

READY_SECONDS: Final = 30.0
"""Longest wait for a process to be ready, in seconds."""
STOP_SECONDS: Final = 40.0
"""Longest wait for a process to end, in seconds: a worker drains."""
CHOSEN: Final = {
    "RMQ_NAMESPACE": "bench",
    "QUEUES": "default",
    "WORKER_HANDLERS": "bench.handlers",
    "WORKER_PREFETCH": "512",
    "DTQ_LOG_LEVEL": "warning",
}


@contextmanager
def dtq(command: str, variable: str) -> Iterator[str]:
    """Run `dtq COMMAND` until the end of the block; give its base URL."""
    port = free_port()
    environ = os.environ | CHOSEN | {variable: f"127.0.0.1:{port}"}
    with _running([sys.executable, "-m", "dtq_cli", command], environ, port) as url:
        yield url


@contextmanager
def empty_server() -> Iterator[str]:
    """Run the server that does nothing; give its base URL."""
    port = free_port()
    with _running([sys.executable, "-m", "bench.empty", str(port)], dict(os.environ), port) as url:
        yield url


def run_dtq(*args: str) -> None:
    """Run `dtq ARGS` to its end."""
    subprocess.run([sys.executable, "-m", "dtq_cli", *args], check=True, stdout=subprocess.DEVNULL)


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
    return port


@contextmanager
def _running(args: list[str], environ: dict[str, str], port: int) -> Iterator[str]:
    process = subprocess.Popen(args, env=environ)
    try:
        url = f"http://127.0.0.1:{port}"
        wait_ready(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Wait until a process is ready.

    Raises:
        SystemExit: it ended, or is not ready in time.
    """
    until = time.monotonic() + READY_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise SystemExit(f"the process of {url} ended: see its output above")
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"{url} is not ready after {READY_SECONDS:g} s: `make ps` says whether the stack runs")

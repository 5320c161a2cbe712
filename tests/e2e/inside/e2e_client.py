"""The client of the end-to-end suite: runs in a pod, enqueues what the recorder hands out by the Service's name, with
the pod's own ServiceAccount token, and has every answer written down (`tests.faults.history.Call`)."""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path
from typing import Any

RECORDER = os.environ["E2E_RECORDER"]
API = os.environ["E2E_API"]
TOKEN = Path("/run/secrets/dtq-token/token")
THREADS = 8
ENQUEUE_SECONDS = 15.0
RECORDER_SECONDS = 30.0
DELAY_SECONDS = 0.5


def main() -> None:
    """Work until the pod ends."""
    threads = [threading.Thread(target=serve) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def serve() -> None:
    """Take orders, one after the other."""
    while True:
        try:
            with urllib.request.urlopen(f"{RECORDER}/order", timeout=RECORDER_SECONDS) as answer:
                order = json.load(answer)
        except OSError:
            time.sleep(DELAY_SECONDS)
            continue
        if order is None:
            continue
        call = enqueue(order)
        record(call)
        if call.get("status") != HTTPStatus.CREATED:
            time.sleep(DELAY_SECONDS)


def record(call: dict[str, Any]) -> None:
    """Have the call written down; it is not over before that."""
    while True:
        try:
            with urllib.request.urlopen(f"{RECORDER}/client", json.dumps(call).encode(), timeout=RECORDER_SECONDS):
                return
        except OSError:
            time.sleep(DELAY_SECONDS)


def enqueue(order: dict[str, Any]) -> dict[str, Any]:
    """One request; whatever comes of it."""
    body = {"type": order["type"], "payload": order["payload"], "idempotency_key": order["key"]}
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN.read_text().strip()}"}
    request = urllib.request.Request(f"{API}/enqueue", json.dumps(body).encode(), headers)
    call: dict[str, Any] = {**order, "api": API, "started_at": time.time()}
    try:
        with urllib.request.urlopen(request, timeout=ENQUEUE_SECONDS) as answer:
            content = json.load(answer)
            call |= {"status": answer.status, "task_id": content["id"]}
            call["replayed"] = answer.headers.get("Idempotency-Replayed") == "true"
    except urllib.error.HTTPError as error:
        with error:
            said = error.read().decode(errors="replace")
        call |= {"status": error.code, "error": said, "retry_after": error.headers.get("Retry-After")}
    except OSError as error:
        call["error"] = repr(error)
    return {**call, "ended_at": time.time()}


if __name__ == "__main__":
    main()

"""The proof at the end of `up`: enqueues one task over the public HTTP interface and waits until it has succeeded."""

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from hack.lib import report
from hack.lib.errors import HackError
from hack.lib.waiting import wait_for

DONE_SECONDS = 30.0
HTTP_SECONDS = 10.0
TASK: dict[str, Any] = {
    "type": "email.send.v1",
    "payload": {"to": "ada@example.com", "subject": "Hello from dtq"},
}
SHOWN = ("id", "type", "queue", "status", "attempts", "result", "last_error")
FINAL = ("SUCCEEDED", "FAILED", "CANCELLED")


def run(base: str, worker_log: Path) -> None:
    """Enqueue a task, wait for its end, print its history."""
    with report.step(f"Enqueueing a task: POST {base}/enqueue {json.dumps(TASK)}"):
        identifier = call(f"{base}/enqueue", TASK)["id"]
        task: dict[str, Any] = {}

        def ended() -> bool:
            task.update(call(f"{base}/tasks/{identifier}"))
            return task["status"] in FINAL

        wait_for(ended, timeout_seconds=DONE_SECONDS)
    report.table([(name, _cell(task[name])) for name in SHOWN if task.get(name) is not None])
    events = call(f"{base}/tasks/{identifier}/events")["events"]
    rows = [(event["at"], event["event"], _cell(event["note"])) for event in events]
    print(flush=True)
    report.table([("at", "event", "note"), *rows])
    if task["status"] != "SUCCEEDED":
        raise HackError(f"the task is {task['status']}, not SUCCEEDED, after {DONE_SECONDS:g} s.", log=worker_log)


def is_unchanged(plan: Path) -> bool:
    """Return whether the log of a dry run shows that the samples are unchanged."""
    told = [line for line in plan.read_text().splitlines() if not line.startswith("dtq: ")]
    return all(line.endswith(": unchanged") or ": would declare " in line for line in told)


def call(url: str, body: Any = None) -> dict[str, Any]:
    """Send one request; a failure contains the answer of the server."""
    request = urllib.request.Request(  # noqa: S310 - http, ours
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=HTTP_SECONDS) as answer:  # noqa: S310
            content: dict[str, Any] = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(1000).decode(errors="replace")
        raise HackError(f"{url} answered {error.code}: {said}") from error
    except OSError as error:
        raise HackError(f"{url} cannot be reached: {error}.", next_step="`make ps` shows what runs.") from error
    return content


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value)

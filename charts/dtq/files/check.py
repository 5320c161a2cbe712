"""What `helm test` runs in the release's own image: is the API up, does it ask who calls, does a task run?"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

API = os.environ["API"]
TOKEN = Path(os.environ["TOKEN_FILE"])
WAIT_SECONDS = 120
OK = 200
FORBIDDEN = 403


def call(path: str, body: object = None, *, token: bool = True) -> tuple[int, dict]:
    """Return status and JSON of an answer."""
    headers = {"Authorization": f"Bearer {TOKEN.read_text()}"} if token else {}
    data = None if body is None else json.dumps(body).encode()
    if data:
        headers["Content-Type"] = "application/json"
    try:
        with urllib.request.urlopen(urllib.request.Request(API + path, data, headers), timeout=10) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def expect(what: str, found: int, wanted: int, answer: object) -> None:
    """End the test if an answer is not the one that is wanted."""
    print(f"{what}: {found}", flush=True)
    if found != wanted:
        sys.exit(f"{what}: expected {wanted}, got {found}: {answer}")


def main() -> None:
    """Look at the API; run a task if TASK_TYPE says which."""
    ends_at = time.monotonic() + WAIT_SECONDS
    while (found := call("/healthz", token=False))[0] != OK and time.monotonic() < ends_at:
        time.sleep(0.5)
    status, answer = found
    expect("health of database and topology", status, 200, answer)
    status, answer = call("/tasks", token=False)
    expect("a request without a token", status, 401, answer)
    status, answer = call("/tasks")
    # Whether it may list tasks is the policy's affair; that it is known is ours.
    expect("a request with a token", 200 if status == FORBIDDEN else status, 200, answer)
    if not os.environ.get("TASK_TYPE"):
        return
    asked = {"type": os.environ["TASK_TYPE"], "payload": json.loads(os.environ["PAYLOAD"])}
    status, task = call("/enqueue", asked)
    expect("enqueue", status, 201, task)
    ends_at = time.monotonic() + WAIT_SECONDS
    while task["status"] in {"ENQUEUED", "RUNNING"} and time.monotonic() < ends_at:
        time.sleep(0.5)
        task = call(f"/tasks/{task['id']}")[1]
    print(f"task {task['id']}: {task['status']}")
    if task["status"] != "SUCCEEDED":
        sys.exit(f"the task did not succeed: {task}")


main()

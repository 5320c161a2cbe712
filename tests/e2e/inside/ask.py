"""One request from inside the cluster: prints status and body of the answer. Its argument says which, as JSON."""

import json
import sys
import urllib.error
import urllib.request
from typing import Any

SECONDS = 15.0


def main(asked: dict[str, Any]) -> dict[str, Any]:
    """Ask; what came back."""
    headers = {"Content-Type": "application/json"}
    if asked["authorization"]:
        headers["Authorization"] = asked["authorization"]
    body = None if asked["body"] is None else json.dumps(asked["body"]).encode()
    request = urllib.request.Request(asked["url"], body, headers)
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return {"status": answer.status, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        with error:
            return {"status": error.code, "body": error.read().decode()}


if __name__ == "__main__":
    json.dump(main(json.loads(sys.argv[1])), sys.stdout)

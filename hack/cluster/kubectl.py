"""Calls kubectl, each call with a time limit.

Uses only the kubeconfig that it is given: the environment's kubeconfig belongs to another cluster.
"""

import json
import subprocess
from pathlib import Path

from hack.cluster.native import programs
from hack.lib.errors import HackError

REQUEST_TIMEOUT_SECONDS = 30


def run(
    kubeconfig: Path, *arguments: str, manifest: object = None, timeout_seconds: int = REQUEST_TIMEOUT_SECONDS
) -> str:
    """Run kubectl and return its output; `manifest` is its standard input. An error contains its message."""
    kubectl = programs.ensure(["kubectl"])["kubectl"]
    asked = [f"--kubeconfig={kubeconfig}", f"--request-timeout={timeout_seconds}s", *arguments]
    done = subprocess.run(
        [str(kubectl), *asked],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        timeout=2 * timeout_seconds,
        check=False,
    )
    if done.returncode != 0:
        raise HackError(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout

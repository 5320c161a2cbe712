"""The Kubernetes client costs memory: who loads it, and how much of it."""

import subprocess
import sys

import pytest

SYNCHRONOUS = {"requests", "oauthlib", "websocket"}
"""What the `kubernetes` package imports for its synchronous client."""


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("dtq_api.main", SYNCHRONOUS | {"kubernetes.aio.client", "aiohttp"}),
        ("dtq_worker.main", SYNCHRONOUS | {"kubernetes.aio.client", "aiohttp"}),
        ("dtq_operator.main", SYNCHRONOUS),
        ("dtq_kube.client", SYNCHRONOUS),
    ],
)
def test_a_process_loads_no_more_of_the_client_than_it_uses(module: str, unused: set[str]) -> None:
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert unused & set(loaded) == set()


def test_the_packages_that_have_not_run_find_their_parts() -> None:
    program = "import dtq_kube, kubernetes.aio.client.models as m, kubernetes.client as c; print(m.V1Pod, c.V1Pod)"
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "aio.client.models" in printed

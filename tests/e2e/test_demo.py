"""The demo values, with `kubectl apply -f examples/` over them: every sample type runs, and nothing warns."""

import json
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest
import yaml

from hack.cluster.native import programs
from tests.e2e.kube import Kube, Object
from tests.e2e.release import CHART, INSIDE, NAME, NAMESPACE, ROOT, Release
from tests.e2e.world import Step, measured

pytestmark = pytest.mark.timeout(1800)  # the first run on a machine builds the cluster

PAYLOADS = {"email.send.v1": {"to": "you@example.org"}}
"""A payload for each sample type."""
DONE_SECONDS = 30.0
READY_SECONDS = 60


@pytest.fixture
def release(kube: Kube, images: dict[str, str]) -> Iterator[Release]:
    """The demo as the README installs it."""
    made = Release(kube, images=images, recorder_url="")
    kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s", timeout_seconds=180)
    kube.run("create", "namespace", NAMESPACE)
    made.helm("install", NAME, str(CHART), "--values", str(CHART / "ci" / "demo-values.yaml"), "--wait")
    yield made
    kube.run("delete", "tt,qs", "--all", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS)
    made.helm("uninstall", NAME, "--wait")
    kube.run("delete", "namespace", NAMESPACE, "--timeout=180s", timeout_seconds=180)


def samples() -> list[Object]:
    """The manifests of `examples/`."""
    files = (ROOT / "examples").glob("*.yaml")
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


def apply(kube: Kube, *arguments: str) -> str:
    """What kubectl prints on both streams: its warnings are on the second."""
    kubectl = programs.ensure(["kubectl"])["kubectl"]
    command = [str(kubectl), f"--kubeconfig={kube.kubeconfig}", "apply", "-n", NAMESPACE, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60)
    return done.stdout


def ask(kube: Kube, path: str, body: Object | None = None) -> tuple[int, Any]:
    """Status and content of a request to the API by its Service's name, as the namespace's own account."""
    token = kube.run("create", "token", "default", "-n", NAMESPACE, "--audience=dtq").strip()
    asked = {"url": f"http://{NAME}-api:8080{path}", "body": body, "authorization": f"Bearer {token}"}
    pod = ("exec", "-n", NAMESPACE, f"deploy/{NAME}-worker-default", "--")
    said = json.loads(kube.run(*pod, "python", "-c", (INSIDE / "ask.py").read_text(), json.dumps(asked)))
    return said["status"], json.loads(said["body"])


def warnings(kube: Kube) -> set[str]:
    """What the operator has warned of: while the servers start, that they do not answer."""
    events = kube.items("events", "-n", NAMESPACE, "--field-selector", "type=Warning")
    return {event["message"] for event in events if event["source"].get("component") == "dtq-operator"}


@pytest.mark.usefixtures("release")
def test_every_sample_type_runs_on_the_demo_and_applying_it_warns_of_nothing(kube: Kube, steps: list[Step]) -> None:
    types = {sample["metadata"]["name"] for sample in samples() if sample["kind"] == "TaskType"}
    assert types == PAYLOADS.keys()
    before = warnings(kube)
    with measured(steps, "demo values: kubectl apply -f examples/, until a task of every sample type has succeeded"):
        assert "warning" not in apply(kube, "-f", str(ROOT / "examples")).lower()
        kube.wait(NAMESPACE, "condition=Ready", "tt,qs", "--all", seconds=READY_SECONDS)
        kube.wait(NAMESPACE, "condition=Served", "tt", "--all", seconds=READY_SECONDS)
        for type_, payload in PAYLOADS.items():
            status, task = ask(kube, "/enqueue", {"type": type_, "payload": payload})
            assert status == HTTPStatus.CREATED, task

            def succeeded(path: str = f"/tasks/{task['id']}") -> bool:
                return bool(ask(kube, path)[1]["status"] == "SUCCEEDED")

            kube.until(f"{type_} has succeeded", succeeded, namespace=NAMESPACE, seconds=DONE_SECONDS)
    assert warnings(kube) == before

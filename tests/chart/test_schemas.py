"""Every manifest fits the schemas of Kubernetes, KEDA, the Prometheus operator and our own CRDs, strictly."""

import subprocess

import pytest

from hack.cluster.native import programs
from tests.chart import rendering, schemas


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> str:
    return schemas.write(tmp_path_factory.mktemp("schemas"))


def conform(location: str, manifests: str) -> "subprocess.CompletedProcess[str]":
    program = programs.ensure(["kubeconform"])["kubeconform"]
    command = [str(program), "-strict", "-summary", "-schema-location", location, "-kubernetes-version", "1.34.4", "-"]
    return subprocess.run(command, input=manifests, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_every_object_of_a_value_set_is_valid(location: str, name: str) -> None:
    done = conform(location, rendering.text(name))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Skipped: 0" in done.stdout


@pytest.mark.parametrize(
    "file",
    [
        "charts/dtq/files/quickstart.yaml",
        *[f"examples/{f.name}" for f in sorted((rendering.ROOT / "examples").glob("*.yaml"))],
    ],
)
def test_every_example_is_valid(location: str, file: str) -> None:
    done = conform(location, (rendering.ROOT / file).read_text())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "manifest",
    [
        "{apiVersion: v1, kind: Service, metadata: {name: x}, spec: {prots: []}}",
        "{apiVersion: dtq.dev/v1alpha1, kind: TaskType, metadata: {name: x}, spec: {queue: a, maxAttempt: 1}}",
        "{apiVersion: keda.sh/v1alpha1, kind: ScaledObject, metadata: {name: x}, spec: {scaleTargetRef: {}}}",
        "{apiVersion: example.org/v1, kind: Unknown, metadata: {name: x}}",
    ],
)
def test_the_schemas_refuse_what_is_wrong(location: str, manifest: str) -> None:
    assert conform(location, manifest).returncode != 0

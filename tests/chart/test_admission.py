"""A real API server takes every object, in a namespace held to `restricted`; the operator's Role suffices."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import control_plane, kubectl
from hack.cluster.control_plane import ControlPlane
from hack.cluster.native import programs
from tests.chart import rendering
from tests.support.addresses import BrokerVhost
from tests.support.system import opened

NAMESPACES = ("dtq", "shop", "billing")
# Kinds of others; tests/chart/test_schemas.py holds them to their schemas.
FOREIGN = {"ScaledObject", "TriggerAuthentication", "ServiceMonitor", "PodMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane.running(tmp_path_factory.mktemp("plane") / "state") as made:
        kubectl.run(made.kubeconfig, "apply", "--filename", str(rendering.ROOT / "crds"))
        kubectl.run(made.kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        for name in NAMESPACES:
            kubectl.run(made.kubeconfig, "create", "namespace", name)
            levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ("enforce", "warn")]
            kubectl.run(made.kubeconfig, "label", "namespace", name, *levels)
        yield made


def apply(plane: ControlPlane, objects: list[rendering.Object], *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [
            str(programs.ensure(["kubectl"])["kubectl"]),
            f"--kubeconfig={plane.kubeconfig}",
            "--warnings-as-errors",
            "apply",
            *options,
            "--filename",
            "-",
        ],
        input=yaml.safe_dump_all(objects),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_every_object_is_admitted_without_a_warning(plane: ControlPlane, name: str) -> None:
    objects = [obj for obj in rendering.objects_of(name) if obj["kind"] not in FOREIGN]
    done = apply(plane, objects, "--dry-run=server")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("(server dry run)") == len(objects)


def test_a_pod_that_is_not_restricted_would_be_told(plane: ControlPlane) -> None:
    found = [json.loads(json.dumps(obj)) for obj in rendering.objects_of("minimal") if obj["kind"] == "Deployment"]
    found[0]["spec"]["template"]["spec"]["containers"][0]["securityContext"] = {}
    done = apply(plane, found, "--dry-run=server")
    assert done.returncode != 0
    assert "would violate PodSecurity" in done.stderr


def test_the_operator_needs_no_more_than_the_role_of_the_chart(
    plane: ControlPlane, dsn: str, broker_vhost: BrokerVhost, tmp_path: Path
) -> None:
    kinds = {"Role", "RoleBinding", "ServiceAccount"}
    done = apply(plane, [obj for obj in rendering.objects_of("minimal") if obj["kind"] in kinds])
    assert done.returncode == 0, done.stderr
    token = kubectl.run(plane.kubeconfig, "--namespace=dtq", "create", "token", "dtq-operator").strip()
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(yaml.safe_dump(_signed_in(plane.kubeconfig, token)))
    environ = {"DTQ_WATCH_NAMESPACES": "dtq", "KUBECONFIG": str(kubeconfig)}
    with opened(tmp_path, dsn, broker_vhost, **environ) as system:
        system.operator()
        manifests = list(yaml.safe_load_all((rendering.CHART / "files/quickstart.yaml").read_text()))
        assert apply(plane, manifests, "--namespace=dtq").returncode == 0
        everything = ("queuesets,tasktypes", "--all", "--namespace=dtq", "--timeout=60s")
        kubectl.run(plane.kubeconfig, "wait", "--for=condition=Ready", *everything, timeout_seconds=60)
        kubectl.run(plane.kubeconfig, "delete", "--wait", *everything, timeout_seconds=60)


def _signed_in(kubeconfig: Path, token: str) -> dict[str, Any]:
    made: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    made["users"] = [{"name": made["users"][0]["name"], "user": {"token": token}}]
    return made

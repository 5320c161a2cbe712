"""What is changed of a release's manifests, as values; that the addons work is shown by tests/e2e."""

import json
from typing import Any

import pytest

from hack.cluster.addons import keda, monitoring
from hack.cluster.addons.addon import RESTRICTED, image, namespace
from hack.cluster.addons.install import ADDONS
from hack.cluster.addons.manifests import read_all


def plain(content: object) -> Any:
    return json.loads(json.dumps(content))


def deployment(name: str) -> dict[str, Any]:
    container = {"name": name, "image": "ghcr.io/theirs", "imagePullPolicy": "Always", "readinessProbe": {"path": "/x"}}
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }


@pytest.mark.parametrize("name", ADDONS)
def test_an_image_is_named_by_its_programs_version(name: str) -> None:
    for program in ADDONS[name].programs:
        repository, _, tag = image(program).rpartition(":")
        assert repository == f"localhost/dtq/{program}"
        assert tag.startswith("v")


def test_a_namespace_admits_only_restricted_pods() -> None:
    assert plain(namespace("n"))["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    adapted = plain(keda.adapted({"kind": "Namespace", "metadata": {"name": "keda"}}))
    assert adapted["metadata"]["labels"] == dict(RESTRICTED)


@pytest.mark.parametrize(("container", "program"), keda.CONTAINERS.items())
def test_kedas_pods_are_made_of_images_that_are_built_here(container: str, program: str) -> None:
    (adapted,) = plain(keda.adapted(deployment(container)))["spec"]["template"]["spec"]["containers"]
    assert adapted["image"] == image(program)
    assert adapted["imagePullPolicy"] == "Never"
    assert adapted["readinessProbe"] == {"path": "/x", **keda.READINESS}


def test_what_is_in_no_namespace_stays_so_and_its_subjects_move() -> None:
    binding = {"kind": "ClusterRoleBinding", "metadata": {"name": "x"}, "subjects": [{"namespace": "default"}]}
    moved = monitoring.in_namespace(binding)
    assert moved["metadata"] == {"name": "x"}
    assert moved["subjects"] == [{"namespace": monitoring.NAMESPACE}]
    assert monitoring.in_namespace(deployment("x"))["metadata"]["namespace"] == monitoring.NAMESPACE


def test_prometheus_takes_every_monitor_of_every_namespace() -> None:
    spec = plain(monitoring.server())["spec"]
    for kind in ("serviceMonitor", "podMonitor", "rule"):
        assert spec[f"{kind}Selector"] == spec[f"{kind}NamespaceSelector"] == {}


@pytest.mark.parametrize(("module", "release"), [("v0.316.0", "v3.16.0"), ("v0.305.2", "v3.5.2")])
def test_the_release_of_prometheus_is_told_by_its_modules_version(module: str, release: str) -> None:
    assert monitoring.release_of(module) == release


def test_a_lone_equals_sign_is_a_text() -> None:
    assert read_all("enum: [=, '!=']\n---\n---\nb: 1\n") == [{"enum": ["=", "!="]}, {"b": 1}]

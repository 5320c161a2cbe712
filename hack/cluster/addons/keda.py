"""KEDA as an addon: the manifests of its own release, with images that are built here.

The permissions and the behaviour of KEDA stay those of the release; only the images, their pull policy and the first
readiness probe differ.
"""

import subprocess
from typing import Any

from hack.cluster.addons.addon import RESTRICTED, Addon, Json, image
from hack.cluster.addons.manifests import read_all
from hack.cluster.native import programs, versions
from hack.lib.errors import HackError

NAMESPACE = "keda"
OPERATOR, ADAPTER = "keda", "keda-adapter"
CONTAINERS = {"keda-operator": OPERATOR, "keda-metrics-apiserver": ADAPTER}
KUSTOMIZE_TIMEOUT_SECONDS = 60.0
# The release probes 20 s after the start for the first time, and then every 10 s.
READINESS = {"initialDelaySeconds": 1, "periodSeconds": 2}


def objects() -> list[Json]:
    """CRDs, roles, operator and metrics adapter."""
    folder = programs.source(versions.modules()["keda"]) / "config" / "minimal"
    kubectl = programs.ensure(["kubectl"])["kubectl"]
    done = subprocess.run(
        [str(kubectl), "kustomize", str(folder)],
        capture_output=True,
        text=True,
        timeout=KUSTOMIZE_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise HackError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return [adapted(item) for item in read_all(done.stdout)]


def adapted(item: Any) -> Json:
    """One object of the release, as this cluster needs it."""
    if item["kind"] == "Namespace":
        item["metadata"].setdefault("labels", {}).update(RESTRICTED)
    if item["kind"] == "Deployment":
        for container in item["spec"]["template"]["spec"]["containers"]:
            container["image"] = image(CONTAINERS[container["name"]])
            container["imagePullPolicy"] = "Never"
            container["readinessProbe"].update(READINESS)
    adapted_item: Json = item
    return adapted_item


ADDON = Addon(
    name="keda",
    namespace=NAMESPACE,
    programs=(OPERATOR, ADAPTER),
    objects=objects,
    ready=(
        ("deployment/keda-operator", "Available"),
        ("deployment/keda-metrics-apiserver", "Available"),
        ("apiservice/v1beta1.external.metrics.k8s.io", "Available"),
    ),
)

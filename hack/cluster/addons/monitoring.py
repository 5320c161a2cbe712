"""Prometheus as an addon: its operator with the release's roles, and one server that scrapes every monitor.

Prometheus selects every ServiceMonitor, PodMonitor and PrometheusRule of the cluster, so that a test needs no labels.
"""

from pathlib import Path
from typing import Any

from hack.cluster.addons.addon import Addon, Json, image, namespace
from hack.cluster.addons.manifests import read_all
from hack.cluster.native import programs, versions

NAMESPACE = "monitoring"
OPERATOR, RELOADER, SERVER = "prometheus-operator", "prometheus-config-reloader", "prometheus"
NAME = "prometheus"
# The Service that the operator makes for its servers, and its port.
SERVICE = "prometheus-operated:web"
SCRAPE_INTERVAL = "5s"
USER_ID = 65532
# Files of the release's folder `example/rbac`, in the order to apply them.
ROLES = (
    "prometheus-operator/prometheus-operator-service-account.yaml",
    "prometheus-operator/prometheus-operator-cluster-role.yaml",
    "prometheus-operator/prometheus-operator-cluster-role-binding.yaml",
    "prometheus/prometheus-service-account.yaml",
    "prometheus/prometheus-cluster-role.yaml",
    "prometheus/prometheus-cluster-role-binding.yaml",
)
DEPLOYMENT = "prometheus-operator/prometheus-operator-deployment.yaml"


def objects() -> list[Json]:
    """Return CRDs, roles, the operator, and the server that it runs."""
    example = programs.source(versions.modules()["prometheus-operator"]) / "example"
    definitions = [_read(file) for file in sorted((example / "prometheus-operator-crd").glob("*.yaml"))]
    roles = [in_namespace(_read(example / "rbac" / file)) for file in ROLES]
    operator = adapted_operator(in_namespace(_read(example / "rbac" / DEPLOYMENT)))
    return [namespace(NAMESPACE), *definitions, *roles, operator, server()]


def in_namespace(item: Any) -> Any:
    """An object of the release, whose examples are in `default`, moved to the addon's namespace."""
    if not item["kind"].startswith("ClusterRole"):
        item["metadata"]["namespace"] = NAMESPACE
    for subject in item.get("subjects", ()):
        subject["namespace"] = NAMESPACE
    return item


def adapted_operator(item: Any) -> Json:
    """The operator's Deployment with images that are built here, and no Service for a kubelet in kube-system."""
    (container,) = item["spec"]["template"]["spec"]["containers"]
    container["image"], container["imagePullPolicy"] = image(OPERATOR), "Never"
    container["args"] = [f"--prometheus-config-reloader={image(RELOADER)}"]
    adapted: Json = item
    return adapted


def server() -> Json:
    """One Prometheus whose data ends with its pod."""
    everything: Json = {}
    selectors = {
        f"{kind}{what}": everything
        for kind in ("serviceMonitor", "podMonitor", "rule")
        for what in ("Selector", "NamespaceSelector")
    }
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "Prometheus",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {
            "image": image(SERVER),
            "imagePullPolicy": "Never",
            "version": release_of(versions.modules()["prometheus"].version),
            "replicas": 1,
            "serviceAccountName": NAME,
            "scrapeInterval": SCRAPE_INTERVAL,
            "evaluationInterval": SCRAPE_INTERVAL,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "fsGroup": USER_ID,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "768Mi"}},
            **selectors,
        },
    }


def release_of(module_version: str) -> str:
    """The release of a version of Prometheus' Go module: v0.316.0 is 3.16.0 (the minor is in the last two digits)."""
    _, minor, patch = module_version.split(".")
    return f"v{int(minor) // 100}.{int(minor) % 100}.{patch}"


def _read(file: Path) -> Any:
    (item,) = read_all(file.read_text())
    return item


ADDON = Addon(
    name="prometheus",
    namespace=NAMESPACE,
    programs=(OPERATOR, RELOADER, SERVER),
    # /prometheus is the data folder, so that the program needs another place.
    image_folder="bin",
    objects=objects,
    ready=(("deployment/prometheus-operator", "Available"), (f"prometheus/{NAME}", "Available")),
)

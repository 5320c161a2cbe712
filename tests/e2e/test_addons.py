"""KEDA and Prometheus alone, before dtq is installed: each does in this cluster what dtq needs from it."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from hack.cluster import config
from hack.cluster.addons import keda
from hack.cluster.addons.addon import namespace
from hack.cluster.native import node_config
from tests.e2e.kube import Kube, Object

pytestmark = pytest.mark.timeout(1800)  # the first run on a machine builds both

NAMESPACE = "addons"
SCALED = "scaled"
HPA_SECONDS = 120.0  # two rounds of the autoscaler, four of its metric, and a slow machine


class Metric:
    """A number that pods can read at the node's address, and a test can change."""

    value = 0

    def __init__(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"value": outer.value}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer((config.NODE_ADDRESS, 0), Handler)
        self.url = f"http://{config.NODE_ADDRESS}:{self.server.server_port}/"


@pytest.fixture
def metric() -> Iterator[Metric]:
    made = Metric()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def empty_namespace(addons: Kube) -> Iterator[str]:
    addons.apply(namespace(NAMESPACE))
    yield NAMESPACE
    addons.run("delete", "namespace", NAMESPACE, "--timeout=60s")


def deployment() -> Object:
    secured = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container: Object = {"name": "idle", "image": node_config.PAUSE_IMAGE, "imagePullPolicy": "Never"}
    pod = {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "terminationGracePeriodSeconds": 1,
        "containers": [{**container, "securityContext": secured}],
    }
    labels = {"app": SCALED}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": SCALED, "namespace": NAMESPACE},
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def scaled_object(url: str) -> Object:
    at_once = {"scaleDown": {"stabilizationWindowSeconds": 0}}
    trigger = {
        "type": "metrics-api",
        "metricType": "AverageValue",
        "metadata": {"url": url, "format": "json", "valueLocation": "value", "targetValue": "1"},
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": SCALED, "namespace": NAMESPACE},
        "spec": {
            "scaleTargetRef": {"name": SCALED},
            "pollingInterval": 2,
            "cooldownPeriod": 5,
            "minReplicaCount": 0,
            "maxReplicaCount": 4,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": at_once}},
            "triggers": [trigger],
        },
    }


def test_keda_scales_a_deployment_from_zero_to_what_a_number_says_and_back(
    addons: Kube, empty_namespace: str, metric: Metric
) -> None:
    addons.apply(deployment(), scaled_object(metric.url))
    addons.wait(empty_namespace, "condition=Ready", f"scaledobject/{SCALED}", seconds=60)
    for wanted in (1, 3, 0):
        metric.value = wanted

        def reached(wanted: int = wanted) -> bool:
            status = addons.get("deployment", SCALED, "-n", empty_namespace)["status"]
            return int(status.get("readyReplicas", 0)) == wanted == int(status.get("replicas", 0))

        addons.until(f"{wanted} replicas are ready", reached, namespace=empty_namespace, seconds=HPA_SECONDS)


def test_prometheus_scrapes_what_a_service_monitor_names(addons: Kube) -> None:
    monitor: Object = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": {"name": "keda-operator", "namespace": keda.NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app.kubernetes.io/name": "keda-operator"}},
            "endpoints": [{"port": "metrics"}],
        },
    }
    addons.apply(monitor)
    addons.until(
        "KEDA's operator is scraped",
        lambda: [series["value"][1] for series in addons.query('up{job="keda-operator"}')] == ["1"],
        namespace="monitoring",
        seconds=HPA_SECONDS,
    )
    assert addons.query("keda_build_info")
    addons.run("delete", "servicemonitor", "keda-operator", "-n", keda.NAMESPACE)

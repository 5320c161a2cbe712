"""The network policies allow the connections that each process needs, and no others.

No network plugin runs here: a small reading of the NetworkPolicy rules decides, on the objects that helm renders.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.chart import rendering
from tests.chart.rendering import Object, objects, objects_of

Labels = Mapping[str, str]
DNS, HTTPS, POSTGRES, AMQP, HTTP = 53, 443, 5432, 5672, 8080
METRICS = {"api": 8084, "operator": 8082, "worker-default": 8081, "maintenance": 8083}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """The other end of a connection: a pod of a namespace, or an address outside the cluster."""

    namespace: str | None = None
    labels: Labels | None = None


OUTSIDE = Peer()
STRANGER = Peer(namespace="shop", labels={"app": "web"})
PROMETHEUS = Peer(namespace="monitoring", labels={"app": "prometheus"})
KEDA = Peer(namespace="keda", labels={"app": "keda-operator"})


class Rules:
    """The policies and the pods of a rendered release."""

    def __init__(self, found: tuple[Object, ...]) -> None:
        self.policies = [obj["spec"] for obj in found if obj["kind"] == "NetworkPolicy"]
        self.pods: dict[str, Object] = {}
        for obj in found:
            pod = obj if obj["kind"] == "Pod" else obj.get("spec", {}).get("template", {})
            if "containers" in pod.get("spec", {}):
                self.pods[pod["metadata"]["labels"]["app.kubernetes.io/component"]] = pod

    def of(self, component: str) -> list[Object]:
        """The policies that select a component's pods."""
        labels = self.pods[component]["metadata"]["labels"]
        return [policy for policy in self.policies if selects(policy["podSelector"], labels)]

    def peer(self, component: str) -> Peer:
        return Peer(namespace="dtq", labels=self.pods[component]["metadata"]["labels"])

    def enters(self, component: str, port: int, peer: Peer) -> bool:
        """Whether a peer may connect to a component's port."""
        return self._passes(component, "ingress", port, peer, self.pods[component])

    def leaves(self, component: str, port: int, peer: Peer = OUTSIDE) -> bool:
        """Whether a component may connect to a peer's port."""
        return self._passes(component, "egress", port, peer, None)

    def _passes(self, component: str, direction: str, port: int, peer: Peer, target: Object | None) -> bool:
        names = {
            named["name"]: named["containerPort"]
            for container in (target["spec"]["containers"] if target else [])
            for named in container.get("ports", [])
        }
        rules = [rule for policy in self.of(component) for rule in policy[direction]]
        side = "from" if direction == "ingress" else "to"
        return any(
            ("ports" not in rule or any(names.get(part["port"], part["port"]) == port for part in rule["ports"]))
            and (side not in rule or any(matches(part, peer) for part in rule[side]))
            for rule in rules
        )


def selects(selector: Mapping[str, Any], labels: Labels) -> bool:
    """Whether a selector selects these labels; it knows the operators that the chart uses."""
    for wanted in selector.get("matchExpressions", []):
        assert wanted["operator"] == "Exists"
        if wanted["key"] not in labels:
            return False
    return all(labels.get(name) == value for name, value in selector.get("matchLabels", {}).items())


def matches(part: Mapping[str, Any], peer: Peer) -> bool:
    """Whether a peer of a rule stands for this peer."""
    if peer.namespace is None or peer.labels is None or "ipBlock" in part:
        return peer.namespace is None and "ipBlock" in part
    names = {"kubernetes.io/metadata.name": peer.namespace}
    in_namespace = selects(part["namespaceSelector"], names) if "namespaceSelector" in part else peer.namespace == "dtq"
    return in_namespace and selects(part.get("podSelector", {}), peer.labels)


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_every_pod_has_one_policy_for_both_directions(name: str) -> None:
    rules = Rules(objects_of(name))
    assert rules.pods
    for component in rules.pods:
        (policy,) = rules.of(component)
        assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_the_api_is_for_the_cluster_and_metrics_are_for_monitoring() -> None:
    rules = Rules(objects({"maintenance": {"enabled": True}}))
    assert rules.enters("api", HTTP, STRANGER)
    assert not rules.enters("api", HTTP, OUTSIDE)
    for component, port in METRICS.items():
        assert rules.enters(component, port, PROMETHEUS), component
        for peer in (STRANGER, OUTSIDE, KEDA, rules.peer("worker-default")):
            assert not rules.enters(component, port, peer), component
    for component in ("migrate", "test"):
        assert not any(rules.enters(component, port, PROMETHEUS) for port in (HTTP, *METRICS.values()))


def test_each_process_reaches_what_it_needs_and_nothing_else() -> None:
    rules = Rules(objects({"maintenance": {"enabled": True}, "networkPolicy": {"workerEgress": []}}))
    needs = {
        "api": {DNS, POSTGRES, AMQP, HTTPS},
        "operator": {DNS, POSTGRES, AMQP, HTTPS},
        "maintenance": {DNS, POSTGRES, AMQP},
        "worker-default": {DNS, POSTGRES, AMQP},
        "migrate": {DNS, POSTGRES},
        "test": {DNS},
    }
    for component, ports in needs.items():
        assert {port for port in (DNS, 80, HTTPS, POSTGRES, AMQP, HTTP) if rules.leaves(component, port)} == ports
    assert rules.leaves("test", HTTP, rules.peer("api"))
    # Without TokenReview the API does not call the API server.
    quiet = Rules(objects({"api": {"auth": {"tokenReview": False, "existingSecret": "tokens"}}}))
    assert not quiet.leaves("api", HTTPS)
    # Handlers usually call other services.
    assert Rules(objects_of("minimal")).leaves("worker-default", HTTPS)


def test_a_restricted_api_still_answers_its_own_test_and_keda() -> None:
    values = {
        "networkPolicy": {"apiFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "a"}}}]}
    }
    rules = Rules(objects(values))
    assert rules.enters("api", HTTP, Peer(namespace="a", labels={}))
    assert rules.enters("api", HTTP, rules.peer("test"))
    assert not rules.enters("api", HTTP, STRANGER)
    assert not rules.enters("api", HTTP, KEDA)
    assert Rules(objects(values, "keda")).enters("api", HTTP, KEDA)


def test_a_service_with_an_address_outside_the_cluster_is_reached_from_there() -> None:
    rules = Rules(objects({"api": {"service": {"type": "LoadBalancer"}}}))
    assert rules.enters("api", HTTP, OUTSIDE)
    assert not rules.enters("api", METRICS["api"], OUTSIDE)


def test_servers_may_be_named_by_address() -> None:
    block = [{"ipBlock": {"cidr": "10.0.0.0/24"}}]
    values = {"networkPolicy": {"databaseTo": block, "rabbitmqTo": block, "databasePort": 6432}}
    rules = Rules(objects(values))
    assert rules.leaves("api", 6432)
    assert not rules.leaves("api", POSTGRES)
    assert rules.leaves("api", AMQP)
    assert not rules.leaves("api", 6432, STRANGER)
    assert not rules.leaves("api", AMQP, STRANGER)


def test_the_demo_servers_answer_the_release_alone() -> None:
    rules = Rules(objects_of("demo"))
    for server, port in (("demo-postgres", POSTGRES), ("demo-rabbitmq", AMQP)):
        assert rules.enters(server, port, rules.peer("api"))
        assert not rules.enters(server, port, STRANGER)
        assert rules.leaves("api", port, rules.peer(server))
        assert not rules.leaves("api", port)
        assert not any(rules.leaves(server, port) for port in (DNS, HTTPS))

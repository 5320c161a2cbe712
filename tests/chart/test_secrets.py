"""Each pod mounts the Secrets of its own process, and no container more of them than it needs."""

from typing import Any

import pytest

from tests.chart import rendering
from tests.chart.rendering import objects, objects_of

SHARED = {"dtq-database", "dtq-rabbitmq"}
OWN = {
    "Deployment/dtq-api": {"dtq-api-database", "dtq-api-rabbitmq"},
    "Deployment/dtq-maintenance": {"dtq-maintenance-database", "dtq-maintenance-rabbitmq"},
    "Deployment/dtq-operator": {"dtq-operator-database", "dtq-operator-rabbitmq"},
    "Deployment/dtq-worker-default": {"dtq-worker-database", "dtq-worker-rabbitmq"},
    # A pool may have a user of its own, which may read from the queues of this pool only.
    "Deployment/dtq-worker-billing": {"dtq-worker-database", "dtq-billing-rabbitmq"},
    "Job/dtq-migrate": {"dtq-owner-database"},
    "Pod/dtq-test": set[str](),
}


def secrets(spec: rendering.Object) -> set[str]:
    """Every Secret that a pod's volumes name, also inside projected ones."""
    sources = [source for volume in spec["volumes"] for source in volume.get("projected", {}).get("sources", [])]
    named = [volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume]
    return {*named, *(source["secret"]["name"] for source in sources if "secret" in source)}


def mounted(found: tuple[rendering.Object, ...]) -> dict[str, set[str]]:
    specs = rendering.pod_specs(found)
    return {"Job/dtq-migrate" if pod.startswith("Job/") else pod: secrets(spec) for pod, spec in specs.items()}


def test_each_process_mounts_its_own_secrets_and_no_others() -> None:
    assert mounted(objects_of("secrets")) == OWN


def test_all_processes_share_two_secrets_by_default() -> None:
    found = mounted(objects_of("minimal"))
    assert found.pop("Job/dtq-migrate") == {"dtq-database"}
    assert found.pop("Pod/dtq-test") == set()
    assert set(found) == {"Deployment/dtq-api", "Deployment/dtq-operator", "Deployment/dtq-worker-default"}
    assert all(names == SHARED for names in found.values())


@pytest.mark.parametrize("component", ["api", "operator", "maintenance"])
def test_a_single_process_may_have_secrets_of_its_own(component: str) -> None:
    values: dict[str, Any] = {"maintenance": {"enabled": True}}
    values[component] = values.get(component, {}) | {"databaseSecret": "own", "rabbitmqSecret": "mine"}
    found = mounted(objects(values))
    assert found.pop(f"Deployment/dtq-{component}") == {"own", "mine"}
    assert not any(names & {"own", "mine"} for names in found.values())


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_what_only_looks_at_the_schema_sees_no_credentials_of_rabbitmq(name: str) -> None:
    for spec in rendering.pod_specs(objects_of(name)).values():
        for container in spec.get("initContainers", []):
            assert [mount["name"] for mount in container["volumeMounts"]] == ["database", "tmp"]
            assert not any(variable.startswith("RMQ_") for variable in rendering.env(container))


def test_no_secret_becomes_an_environment_variable() -> None:
    for name in rendering.VALUE_SETS:
        for pod, spec in rendering.pod_specs(objects_of(name)).items():
            for container in rendering.containers(spec):
                assert not [variable for variable in container.get("env", []) if "valueFrom" in variable], pod
                assert "envFrom" not in container

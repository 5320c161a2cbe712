"""Bad values are refused with words that say what to do; every switch does its one thing; the README tells them all."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dtq_worker.registry import load
from hack.chart import paths
from tests.chart import rendering
from tests.chart.rendering import objects, objects_of, refusal

REFUSED = [
    ({"database": {"existingSecret": ""}}, "database.existingSecret: name a Secret that holds the DSN"),
    ({"rabbitmq": {"existingSecret": ""}}, "rabbitmq.existingSecret: name a Secret"),
    ({"rabbitmq": {"host": ""}}, "rabbitmq.host: say where RabbitMQ is"),
    ({"api": {"auth": {"tokenReview": False}}}, "nobody could sign in"),
    ({"api": {"ingress": {"enabled": True}}}, "api.ingress.host"),
    ({"replicaCount": 3}, "replicaCount"),
    ({"api": {"auth": {"enabled": False}}}, "enabled"),
    ({"api": {"replicas": 0}}, "replicas"),
    ({"workers": {"pools": {"Upper": {}}}}, "Upper"),
    ({"workers": {"pools": {"default": {"queues": []}}}}, "queues"),
    ({"workers": {"pools": {"default": {"autoscaling": {"mode": "magic"}}}}}, "mode"),
    ({"workers": {"pools": {"default": {"longestTaskSeconds": 0}}}}, "longestTaskSeconds"),
    ({"workers": {"defaults": {"handlers": None}}}, "workers.pools.default.handlers: name the modules"),
    (
        {
            "workers": {"pools": {"default": {"autoscaling": {"mode": "keda"}}}},
            "bootstrap": {
                "queueSets": [
                    {"name": "default", "spec": {"queues": [{"name": "default", "scaling": {"minReplicas": 1}}]}}
                ]
            },
        },
        "workers.pools.default.autoscaling.minReplicas is 0, but queue default",
    ),
    ({"config": {"DB_DSN": "postgresql://a:b@c/d"}}, "DB_DSN"),
    ({"config": {"lower": "x"}}, "lower"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"rabbitmq": {"port": "amqp"}}, "port"),
]

TOGGLES = [
    (
        {"operator": {"enabled": False}},
        {f"{kind}/dtq-operator" for kind in ("Deployment", "Role", "RoleBinding", "ServiceAccount", "NetworkPolicy")},
        set(),
    ),
    (
        {"migrations": {"enabled": False}},
        {"Job/dtq-migrate-*", "ServiceAccount/dtq-migrate", "NetworkPolicy/dtq-migrate"},
        set(),
    ),
    ({"test": {"enabled": False}}, {"Pod/dtq-test", "NetworkPolicy/dtq-test"}, set()),
    ({"api": {"podDisruptionBudget": {"enabled": False}}}, {"PodDisruptionBudget/dtq-api"}, set()),
    ({"api": {"autoscaling": {"enabled": True}}}, set(), {"HorizontalPodAutoscaler/dtq-api"}),
    ({"api": {"ingress": {"enabled": True, "host": "a.example"}}}, set(), {"Ingress/dtq-api"}),
    ({"api": {"auth": {"policy": {"grants": []}}}}, set(), {"ConfigMap/dtq-policy"}),
    ({"monitoring": {"serviceMonitor": {"enabled": True}}}, set(), {"ServiceMonitor/dtq-api"}),
    ({"monitoring": {"podMonitor": {"enabled": True}}}, set(), {"PodMonitor/dtq"}),
    ({"monitoring": {"prometheusRule": {"enabled": True}}}, set(), {"PrometheusRule/dtq"}),
    ({"monitoring": {"dashboard": {"enabled": True}}}, set(), {"ConfigMap/dtq-dashboards"}),
    ({"bootstrap": {"queueSets": [{"name": "a", "spec": {"namespace": "a"}}]}}, set(), {"ConfigMap/dtq-bootstrap"}),
    (
        {"networkPolicy": {"enabled": False}},
        {f"NetworkPolicy/dtq-{component}" for component in ("api", "operator", "worker", "migrate", "test")},
        set(),
    ),
    (
        {"demo": {"postgres": {"enabled": True}}},
        set(),
        {f"{kind}/dtq-demo-postgres" for kind in ("Secret", "Service", "StatefulSet", "NetworkPolicy")},
    ),
    (
        {"demo": {"rabbitmq": {"enabled": True}}},
        set(),
        {f"{kind}/dtq-demo-rabbitmq" for kind in ("Secret", "Service", "StatefulSet", "ConfigMap", "NetworkPolicy")},
    ),
]


def names(found: tuple[rendering.Object, ...]) -> set[str]:
    return {re.sub(r"migrate-[0-9a-f]{8}$", "migrate-*", f"{obj['kind']}/{obj['metadata']['name']}") for obj in found}


@pytest.mark.parametrize(("values", "words"), REFUSED)
def test_bad_values_are_refused(values: dict[str, Any], words: str) -> None:
    assert words in refusal(values)


@pytest.mark.parametrize(("values", "without", "with_"), TOGGLES, ids=[str(toggle[0]) for toggle in TOGGLES])
def test_a_switch_changes_just_the_objects_it_is_about(
    values: dict[str, Any], without: set[str], with_: set[str]
) -> None:
    before, after = names(objects_of("minimal")), names(objects(values))
    assert before - after == without
    assert after - before == with_


def test_no_pool_pretends_to_work_unless_it_is_the_demos() -> None:
    for name in rendering.VALUE_SETS:
        assert ("dtq_worker.demo" in rendering.text(name)) == (name == "demo")


def test_a_pool_whose_handlers_were_forgotten_is_refused(tmp_path: Path) -> None:
    # Not by a null over the value: helm takes that as "delete the default", whatever the default is.
    values = yaml.safe_load(rendering.values_file("minimal").read_text())
    del values["workers"]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = rendering.run("template", "dtq", str(rendering.CHART), "--values", str(file))
    assert done.returncode != 0
    assert "workers.pools.default.handlers: name the modules" in done.stderr


def test_the_demo_runs_what_the_examples_declare_and_declares_the_same() -> None:
    examples = [
        document
        for file in sorted((rendering.ROOT / "examples").glob("*.yaml"))
        for document in yaml.safe_load_all(file.read_text())
    ]
    (brought,) = [obj for obj in objects_of("demo") if obj["metadata"]["name"] == "dtq-bootstrap"]
    declared = {
        (obj["kind"], obj["metadata"]["name"]): obj["spec"]
        for text in brought["data"].values()
        for obj in yaml.safe_load_all(text)
    }
    assert declared == {(obj["kind"], obj["metadata"]["name"]): obj["spec"] for obj in examples}
    (worker,) = [spec for pod, spec in rendering.pod_specs(objects_of("demo")).items() if "worker" in pod]
    env = {variable["name"]: variable.get("value", "") for variable in worker["containers"][0]["env"]}
    handled = load(env["WORKER_HANDLERS"].split(","))
    for obj in examples:
        if obj["kind"] == "TaskType":
            assert obj["spec"]["queue"] in env["QUEUES"].split(",")
            assert obj["metadata"]["name"] in handled


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_lint_has_nothing_to_say(name: str) -> None:
    done = rendering.run("lint", "--strict", str(rendering.CHART), "--values", str(rendering.values_file(name)))
    assert done.returncode == 0, done.stdout


def test_the_readme_tells_every_value() -> None:
    table = re.findall(r"^\| `([^`]+)` \|", (rendering.CHART / "README.md").read_text(), re.MULTILINE)
    values = yaml.safe_load((rendering.CHART / "values.yaml").read_text())
    assert table == [path for path, _ in paths(values)]


def test_settings_of_the_chart_are_settings_of_dtq() -> None:
    from dtq.runtime.environment import variable_names  # noqa: PLC0415

    known = set(variable_names())
    for name in rendering.VALUE_SETS:
        for pod, spec in rendering.pod_specs(objects_of(name)).items():
            if "demo" in pod or pod.startswith("Pod"):
                continue
            for container in rendering.containers(spec):
                unknown = {name.removesuffix("_FILE") for name in rendering.env(container)} - known
                unknown -= {name.removesuffix("_FILE") for name in known} | {"TZ"}
                assert not unknown, (pod, unknown)

"""What the chart promises of every object, whatever is switched on."""

import itertools
from typing import Any

import pytest

from tests.chart import rendering
from tests.chart.rendering import Object, containers, env, objects, objects_of, of_kind, pod_specs

PODS = [
    pytest.param(pod, spec, id=f"{name}-{pod}")
    for name in rendering.VALUE_SETS
    for pod, spec in pod_specs(objects_of(name)).items()
]


@pytest.mark.parametrize(("pod", "spec"), PODS)
def test_every_pod_is_restricted(pod: str, spec: Object) -> None:
    """What Pod Security's `restricted` asks, and more: a read-only root, no token that is not needed."""
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["enableServiceLinks"] is False
    assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))
    needs_kubernetes = pod.endswith(("-operator", "-api"))
    assert spec["automountServiceAccountToken"] is needs_kubernetes
    for container in containers(spec):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]) == {"requests", "limits"}
        assert "memory" in container["resources"]["limits"]
    kinds = {key for volume in spec.get("volumes", []) for key in volume if key != "name"}
    assert kinds <= {"projected", "emptyDir", "secret", "configMap", "persistentVolumeClaim"}


@pytest.mark.parametrize("spec", [pod.values[1] for pod in PODS])
def test_no_secret_is_in_the_environment(spec: Object) -> None:
    for container in containers(spec):
        for variable in container.get("env", []):
            assert "secretKeyRef" not in str(variable)
        assert not {"DB_DSN", "RMQ_PASS", "RMQ_USER"} & set(env(container))


@pytest.mark.parametrize("spec", [pod.values[1] for pod in PODS if "StatefulSet" not in str(pod.values[0])])
def test_every_mount_has_its_volume_and_every_port_of_a_probe_is_there(spec: Object) -> None:
    volumes = {volume["name"] for volume in spec.get("volumes", [])}
    for container in containers(spec):
        mounts = [mount["name"] for mount in container.get("volumeMounts", [])]
        assert set(mounts) <= volumes
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        assert len(set(paths)) == len(paths)
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            if probe in container:
                assert container[probe]["httpGet"]["port"] in ports


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_kubectl_logs_means_the_process_and_not_the_wait_for_the_schema(name: str) -> None:
    for deployment in of_kind(objects_of(name), "Deployment").values():
        template = deployment["spec"]["template"]
        own = [container["name"] for container in template["spec"]["containers"]]
        assert [template["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]] == own


def test_annotations_of_ones_own_stay_and_win() -> None:
    mine = {"kubectl.kubernetes.io/default-container": "sidecar", "example.com/a": "b"}
    found = of_kind(objects({"api": {"podAnnotations": mine}}), "Deployment")["dtq-api"]
    assert mine.items() <= found["spec"]["template"]["metadata"]["annotations"].items()


@pytest.mark.parametrize("spec", [pod.values[1] for pod in PODS])
def test_no_probe_looks_before_a_healthy_start_can_be_over(spec: Object) -> None:
    """A failed startup probe is a Warning event: the first probe comes late, or its command waits."""
    for container in spec["containers"]:
        if probe := container.get("startupProbe"):
            waits_by_itself = probe.get("failureThreshold") == 1 and probe.get("timeoutSeconds", 1) > 60
            assert probe.get("initialDelaySeconds", 0) >= 5 or waits_by_itself


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_selectors_find_the_pods_they_mean(name: str) -> None:
    found = objects_of(name)
    labels = {
        obj["metadata"]["name"]: obj["spec"]["template"]["metadata"]["labels"]
        for obj in found
        if obj["kind"] in {"Deployment", "StatefulSet"}
    }
    for obj in found:
        spec: Any = obj.get("spec") or {}
        if obj["kind"] in {"Deployment", "StatefulSet", "PodDisruptionBudget"}:
            wanted = spec["selector"]["matchLabels"]
        elif obj["kind"] == "Service":
            wanted = spec["selector"]
        else:
            continue
        matching = [pod for pod, own in labels.items() if wanted.items() <= own.items()]
        # The API has a second Service, for its metrics.
        assert matching == [obj["metadata"]["name"].removesuffix("-metrics")], (obj["kind"], matching)


@pytest.mark.parametrize("name", rendering.VALUE_SETS)
def test_every_namespaced_object_names_its_namespace(name: str) -> None:
    cluster_wide = {"CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding"}
    for obj in objects_of(name):
        if obj["kind"] not in cluster_wide:
            assert obj["metadata"]["namespace"] in {"dtq", "shop", "billing"}, obj["metadata"]["name"]


def test_replicas_are_left_to_whoever_scales() -> None:
    deployments = of_kind(objects_of("operator-scaling"), "Deployment") | of_kind(objects_of("keda"), "Deployment")
    scaled = {name for name, deployment in deployments.items() if "replicas" not in deployment["spec"]}
    pools = ("one", "two", "three", "mail", "reports")
    # The API of one set is scaled by CPU, that of the other has its fixed number.
    assert scaled == {f"dtq-worker-{pool}" for pool in pools}
    assert "replicas" not in of_kind(objects_of("operator-scaling"), "Deployment")["dtq-api"]["spec"]
    assert of_kind(objects_of("minimal"), "Deployment")["dtq-worker-default"]["spec"]["replicas"] == 1


@pytest.mark.parametrize("seconds", [1, 60, 3600])
def test_a_pod_that_ends_waits_for_the_longest_task_of_its_pool(seconds: int) -> None:
    found = objects({"workers": {"pools": {"default": {"longestTaskSeconds": seconds}}}})
    spec = pod_specs(found)["Deployment/dtq-worker-default"]
    drain = int(env(spec["containers"][0])["WORKER_DRAIN"].removesuffix("s"))
    assert drain == seconds
    assert spec["terminationGracePeriodSeconds"] == drain + 30


def test_a_pool_overrides_only_what_it_names() -> None:
    pools = {"plain": None, "own": {"queues": ["high"], "podDisruptionBudget": {"enabled": False}, "replicas": 0}}
    found = objects({"workers": {"defaults": {"prefetch": 8}, "pools": pools | {"default": None}}})
    deployments = of_kind(found, "Deployment")
    own = env(deployments["dtq-worker-own"]["spec"]["template"]["spec"]["containers"][0])
    assert (own["QUEUES"], own["WORKER_PREFETCH"], own["WORKER_CONCURRENCY"]) == ("high", "8", "8")
    assert deployments["dtq-worker-own"]["spec"]["replicas"] == 0
    assert "dtq-worker-own" not in of_kind(found, "PodDisruptionBudget")
    assert "dtq-worker-plain" in of_kind(found, "PodDisruptionBudget")


def test_a_scaled_object_asks_the_api_for_each_queue() -> None:
    found = of_kind(objects_of("keda"), "ScaledObject")
    mail, reports = found["dtq-worker-mail"]["spec"], found["dtq-worker-reports"]["spec"]
    assert [trigger["metadata"]["url"] for trigger in mail["triggers"]] == [
        f"http://dtq-api.dtq.svc:8080/queues/{queue}/scaling?queue_set=default" for queue in ("high", "default")
    ]
    assert {trigger["metadata"]["authMode"] for trigger in mail["triggers"]} == {"bearer"}
    assert mail["minReplicaCount"] == 0
    assert mail["fallback"] == {"failureThreshold": 3, "replicas": 1, "behavior": "currentReplicasIfHigher"}
    metadata = reports["triggers"][0]["metadata"]
    assert (metadata["protocol"], metadata["queueName"]) == ("http", "tasks.reports")
    assert metadata["excludeUnacknowledged"] == "false"
    assert set(of_kind(objects_of("keda"), "TriggerAuthentication")) == {"dtq-api", "dtq-rabbitmq"}


@pytest.mark.parametrize(("install", "keep"), list(itertools.product([True, False], repeat=2)))
def test_definitions_come_and_stay_as_asked(*, install: bool, keep: bool) -> None:
    found = of_kind(objects({"crds": {"install": install, "keep": keep}}), "CustomResourceDefinition")
    assert bool(found) is install
    for definition in found.values():
        assert ("helm.sh/resource-policy" in definition["metadata"].get("annotations", {})) is keep


def test_the_chart_holds_the_definitions_as_they_are() -> None:
    for file in (rendering.ROOT / "crds").glob("*.yaml"):
        assert (rendering.CHART / "files/crds" / file.name).read_text() == file.read_text(), "run make crds"


def test_whatever_changes_a_migration_gives_it_a_new_name_since_a_job_cannot_be_changed() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"image": {"tag": "2"}},
        {"migrations": {"existingSecret": "owner"}},
        {"logLevel": "debug"},
        {"config": {"BACKOFFS": "5s"}},
        {"migrations": {"resources": {"limits": {"memory": "1Gi"}}}},
        {"podSecurityContext": {"runAsUser": 10002}},
    ]
    jobs = [of_kind(objects(values), "Job") for values in changes]
    by_name = {name: job["spec"] for found in jobs for name, job in found.items()}
    assert len(by_name) == len(changes)
    for values in ({"api": {"replicas": 5}}, {"queueSet": "other"}, {"rabbitmq": {"host": "elsewhere"}}):
        assert of_kind(objects(values), "Job") == jobs[0]


def test_authorities_are_mounted_where_the_docs_say() -> None:
    for pod, spec in pod_specs(objects_of("full")).items():
        if pod.startswith("Pod"):
            continue
        paths = {
            f"{volume['name']}/{item['path']}"
            for volume in spec["volumes"]
            for item in volume.get("secret", {}).get("items", [])
        }
        assert "database/ca.crt" in paths, pod
        if pod.startswith("Job"):
            continue
        assert "rabbitmq/ca.crt" in paths, pod
        for container in spec["containers"]:
            assert env(container)["RMQ_CA_FILE"] == "/run/secrets/dtq/rabbitmq/ca.crt"


def test_with_tls_every_client_of_the_api_speaks_https() -> None:
    found = objects_of("tls")
    specs = pod_specs(found)
    for pod, scheme in (("Deployment/dtq-api", "HTTPS"), ("Deployment/dtq-operator", "HTTP")):
        (container,) = specs[pod]["containers"]
        probes = [container[probe]["httpGet"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert {probe["scheme"] for probe in probes} == {scheme}
    assert of_kind(found, "ServiceMonitor")["dtq-api"]["spec"]["endpoints"][0]["port"] == "metrics"
    # The test trusts the authority, and sees no key of the API.
    (check,) = specs["Pod/dtq-test"]["containers"]
    assert env(check)["API"] == "https://dtq-api.dtq.svc:8080"
    (authority,) = [volume for volume in specs["Pod/dtq-test"]["volumes"] if "secret" in volume]
    assert [item["key"] for item in authority["secret"]["items"]] == ["ca.crt"]
    assert env(check)["SSL_CERT_FILE"] == "/run/secrets/dtq-tls/ca.crt"
    scaled = of_kind(objects({"api": {"tls": {"existingSecret": "t"}}}, "keda"), "ScaledObject")["dtq-worker-mail"]
    assert scaled["spec"]["triggers"][0]["metadata"]["url"].startswith("https://dtq-api.dtq.svc:8080/")
    public = pod_specs(objects({"api": {"tls": {"existingSecret": "t", "caKey": ""}}}))["Pod/dtq-test"]
    assert "SSL_CERT_FILE" not in env(public["containers"][0])


def test_pods_wait_for_the_schema_and_only_the_job_may_change_it() -> None:
    specs = pod_specs(objects({"migrations": {"existingSecret": "owner", "existingSecretKey": "uri"}}))
    for pod, spec in specs.items():
        if pod.startswith("Deployment"):
            assert spec["initContainers"][0]["args"] == ["migrate", "--check", "--wait", "15m"]
        secrets = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        assert ("owner" in secrets) is pod.startswith("Job"), pod

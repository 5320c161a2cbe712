"""The release under test: its values, the other objects of its namespace, the calls of helm.

Beyond the chart, the suite adds handlers, tokens and a client only.
"""

import base64
import hashlib
import json
import secrets
import subprocess
from pathlib import Path
from typing import Any

from hack.cluster.addons.addon import namespace
from hack.cluster.native import programs
from tests.e2e.kube import Kube, Object

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "dtq"
INSIDE = ROOT / "tests" / "e2e" / "inside"
NAME = NAMESPACE = "dtq"
BURST_MAX = 4
HELM_SECONDS = 420.0
TIMEOUT_SECONDS = 45
SLOW_MAX, SHARED_MAX = 7, 3
STEADY, BURST, FAILING, LATE = "e2e.steady.v1", "e2e.burst.v1", "e2e.fail.v1", "e2e.late.v1"
LEFT, RIGHT, SLOW = "e2e.left.v1", "e2e.right.v1", "e2e.slow.v1"
INNOCENT, BOMB = "e2e.innocent.v1", "e2e.bomb.v1"
TYPES = {BURST: "default", STEADY: "high", LEFT: "left", RIGHT: "right", SLOW: "slow", INNOCENT: "fragile"}
"""Those whose tasks succeed and that are there from the beginning, with their queues."""
FRAGILE_MEMORY = "256Mi"
CLIENT = "e2e-client"
# The only grants: for the token of KEDA, and for the client's ServiceAccount.
GRANTS: list[Object] = [
    {"subjects": ["token:monitoring"], "verbs": ["scale-read"]},
    {
        "subjects": [f"system:serviceaccount:{NAMESPACE}:{CLIENT}"],
        "verbs": ["enqueue", "read"],
        "types": ["e2e.*", "email.*"],
    },
]
_HANDLERS_FOLDER = "/e2e"


class Release:
    """One installation of the chart."""

    def __init__(self, kube: Kube, *, images: dict[str, str], recorder_url: str) -> None:
        self.kube = kube
        self.images = images
        self.token = secrets.token_urlsafe(24)
        self._recorder_url = recorder_url
        self._helm = programs.ensure(["helm"])["helm"]
        self._values = kube.logs / "values.json"

    def helm(self, *arguments: str) -> str:
        """What helm prints."""
        done = subprocess.run(
            [str(self._helm), "--kubeconfig", str(self.kube.kubeconfig), "--namespace", NAMESPACE, *arguments],
            capture_output=True,
            text=True,
            timeout=HELM_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            log = self.kube.describe(NAMESPACE)
            raise AssertionError(f"helm {' '.join(arguments)}: {done.stderr.strip()}\nlog: {log}")
        return done.stdout

    def prepare(self) -> None:
        """The namespace, held to the restricted standard, with what the values refer to; what is left is removed."""
        self.kube.run("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=180s", timeout_seconds=180)
        tokens = f"monitoring:{hashlib.sha256(self.token.encode()).hexdigest()}\n"
        files = {file.name: file.read_text() for file in INSIDE.glob("*.py")}
        self.kube.apply(
            namespace(NAMESPACE),
            _secret("dtq-tokens", tokens=tokens),
            _secret("dtq-monitoring", token=self.token),
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _named("e2e-inside"), "data": files},
        )

    def install(self) -> None:
        """`helm install` with this suite's values; workers wait until their queues are declared."""
        self._values.write_text(json.dumps(self.values()))
        self.helm("install", NAME, str(CHART), "--values", str(self._values), "--timeout", "6m")

    def upgrade(self, **more: Any) -> None:
        """`helm upgrade` that changes something of every pod; back when the new ones are ready."""
        self._values.write_text(json.dumps({**self.values(), **more}))
        self.helm("upgrade", NAME, str(CHART), "--values", str(self._values), "--wait", "--timeout", "6m")

    def values(self) -> Object:
        """A pool that is always there, and one for each drill; everything that can be watched is."""
        repository, _, tag = self.images["dtq"].rpartition(":")
        mount = {"name": "e2e", "mountPath": _HANDLERS_FOLDER, "readOnly": True}
        requests = {"requests": {"cpu": "20m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}
        scaling = {"mode": "keda", "pollingSeconds": 2, "cooldownSeconds": 10}
        fragile = {**requests, "limits": {"memory": FRAGILE_MEMORY}}
        token = {"name": "dtq-monitoring", "key": "token"}
        return {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "demo": {name: {"enabled": True, "image": self.images[name]} for name in ("postgres", "rabbitmq")},
            "operator": {"resyncSeconds": "20s", "resources": requests},
            "api": {"resources": requests, "auth": {"existingSecret": "dtq-tokens", "policy": {"grants": GRANTS}}},
            "keda": {"tokenSecret": token["name"], "tokenSecretKey": token["key"]},
            "workers": {
                "defaults": {
                    "handlers": ["dtq_worker.demo", "e2e_handlers"],
                    "concurrency": 4,
                    "longestTaskSeconds": TIMEOUT_SECONDS,
                    "resources": requests,
                    "extraEnv": [
                        {"name": "PYTHONPATH", "value": _HANDLERS_FOLDER},
                        {"name": "E2E_RECORDER", "value": self._recorder_url},
                    ],
                    "extraVolumes": [{"name": "e2e", "configMap": {"name": "e2e-inside"}}],
                    "extraVolumeMounts": [mount],
                },
                "pools": {
                    # It waits for the queue late, which is declared later.
                    "default": {"queues": ["high", "late"], "replicas": 2},
                    "burst": {"queues": ["default"], "autoscaling": {**scaling, "maxReplicas": BURST_MAX}},
                    "shared": {"queues": ["left", "right"], "autoscaling": {"mode": "operator"}},
                    "slow": {
                        "queues": ["slow"],
                        "concurrency": 1,
                        "autoscaling": {**scaling, "maxReplicas": SLOW_MAX},
                    },
                    "fragile": {"queues": ["fragile"], "concurrency": 8, "resources": fragile},
                },
            },
            "monitoring": {
                "serviceMonitor": {"enabled": True, "interval": "5s"},
                "podMonitor": {"enabled": True, "interval": "5s"},
                "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True},
            },
        }

    def start_client(self) -> None:
        """The pod that enqueues with its ServiceAccount's token, for the audience dtq."""
        token = {"serviceAccountToken": {"audience": "dtq", "path": "token", "expirationSeconds": 3600}}
        container = {
            "name": "client",
            "image": self.images["dtq"],
            "imagePullPolicy": "Never",
            "command": ["python", f"{_HANDLERS_FOLDER}/e2e_client.py"],
            "env": [
                {"name": "E2E_RECORDER", "value": self._recorder_url},
                {"name": "E2E_API", "value": f"http://{NAME}-api.{NAMESPACE}.svc:8080"},
            ],
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [
                {"name": "inside", "mountPath": _HANDLERS_FOLDER},
                {"name": "token", "mountPath": "/run/secrets/dtq-token"},
            ],
        }
        pod = {
            "serviceAccountName": CLIENT,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [
                {"name": "inside", "configMap": {"name": "e2e-inside"}},
                {"name": "token", "projected": {"sources": [token]}},
            ],
        }
        self.kube.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _named(CLIENT)},
            {"apiVersion": "v1", "kind": "Pod", "metadata": _named(CLIENT), "spec": pod},
        )
        self.kube.wait(NAMESPACE, "condition=Ready", f"pod/{CLIENT}")

    def secret(self, name: str) -> dict[str, str]:
        """What a Secret holds."""
        data = self.kube.get("secret", name, "-n", NAMESPACE)["data"]
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def psql(self, dsn: str, *statements: str) -> list[str]:
        """The lines that statements give, by the demo Postgres' own pod."""
        asked = [word for statement in statements for word in ("-c", statement)]
        pod = ("exec", "-n", NAMESPACE, f"{NAME}-demo-postgres-0", "--")
        return self.kube.run(*pod, "psql", "-qAt", dsn, *asked, timeout_seconds=120).splitlines()


def queue_set(*more: str, **spec: Any) -> Object:
    """The one of `examples/` with a queue for each drill; those of KEDA's pools let their workers go down to none."""
    burst = {"minReplicas": 0, "maxReplicas": BURST_MAX, "targetBacklogPerReplica": 20}
    slow = {"minReplicas": 0, "maxReplicas": 50, "targetBacklogPerReplica": 1}
    shared = {
        "mode": "Operator",
        "targetRef": {"name": f"{NAME}-worker-shared"},
        "minReplicas": 1,
        "maxReplicas": SHARED_MAX,
        "targetBacklogPerReplica": 10,
        "cooldownSeconds": 10,
    }
    scaling = {"default": burst, "slow": slow, "left": shared, "right": shared}
    names = ("high", "default", "left", "right", "slow", "fragile", *more)
    queues = [{"name": name} | ({"scaling": scaling[name]} if name in scaling else {}) for name in names]
    return queue_set_named("default", namespace="tasks", queues=queues, **spec)


def queue_set_named(name: str, **spec: Any) -> Object:
    """A queue set."""
    return {"apiVersion": "dtq.dev/v1alpha1", "kind": "QueueSet", "metadata": _named(name), "spec": spec}


def task_type(name: str, queue: str, *, attempts: int = 20) -> Object:
    """A type of the suite's handlers, whose retries come soon."""
    return {
        "apiVersion": "dtq.dev/v1alpha1",
        "kind": "TaskType",
        "metadata": _named(name),
        "spec": {
            "queue": queue,
            "maxAttempts": attempts,
            "timeoutSeconds": TIMEOUT_SECONDS,
            "backoff": {"strategy": "List", "delaysSeconds": [5]},
        },
    }


def _named(name: str) -> Object:
    return {"name": name, "namespace": NAMESPACE}


def _secret(name: str, **content: str) -> Object:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": _named(name), "stringData": content}

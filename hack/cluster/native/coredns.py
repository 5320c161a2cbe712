"""The cluster DNS: CoreDNS as a Deployment in kube-system, at the address that pods are given.

Satisfies the restricted pod security standard: it listens on high ports.
"""

from hack.cluster import config

IMAGE = "localhost/dtq/coredns:1"
NAMESPACE = "kube-system"
NAME = "coredns"
DNS_PORT = 1053
READY_PORT = 8181
LABELS = {"k8s-app": "kube-dns"}
COREFILE = f"""\
.:{DNS_PORT} {{
    errors
    ready :{READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        pods insecure
        fallthrough in-addr.arpa ip6.arpa
    }}
    forward . /etc/resolv.conf
    cache 5
}}
"""

Json = dict[str, object]


def manifest() -> Json:
    """Everything of CoreDNS, as one list to apply."""
    items = [_account(), _role(), _role_binding(), _settings(), _deployment(), _service()]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _meta(name: str = NAME) -> Json:
    return {"name": name, "namespace": NAMESPACE, "labels": LABELS}


def _account() -> Json:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": _meta()}


def _role() -> Json:
    rules = [
        {
            "apiGroups": [""],
            "resources": ["endpoints", "services", "pods", "namespaces"],
            "verbs": ["list", "watch"],
        },
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "system:coredns"},
        "rules": rules,
    }


def _role_binding() -> Json:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "system:coredns"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    }


def _settings() -> Json:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _meta(), "data": {"Corefile": COREFILE}}


def _deployment() -> Json:
    container = {
        "name": NAME,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": ["-conf", "/etc/coredns/Corefile"],
        "ports": [{"containerPort": DNS_PORT, "protocol": protocol} for protocol in ("UDP", "TCP")],
        "readinessProbe": {"httpGet": {"path": "/ready", "port": READY_PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "170Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": [{"name": "settings", "mountPath": "/etc/coredns"}],
    }
    pod = {
        "serviceAccountName": NAME,
        "priorityClassName": "system-cluster-critical",
        "dnsPolicy": "Default",
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "settings", "configMap": {"name": NAME}}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(),
        "spec": {
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


def _service() -> Json:
    ports = [
        {"name": protocol.lower(), "port": 53, "targetPort": DNS_PORT, "protocol": protocol}
        for protocol in ("UDP", "TCP")
    ]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta("kube-dns"),
        "spec": {"selector": LABELS, "clusterIP": config.DNS_ADDRESS, "ports": ports},
    }

"""The flags of every control-plane program, as pure functions of addresses and files."""

from dataclasses import dataclass
from pathlib import Path

from hack.cluster.pki import Identity, Pki
from hack.lib import ports

SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
DNS_ADDRESS = "10.96.0.10"
POD_RANGE = "10.244.0.0/24"
NODE_NAME = "dtq-node"
NODE_ADDRESS = "10.245.0.1"
NODE_BRIDGE = "dtq0"
POD_BRIDGE = "dtq1"
API_PORT = 6443
LOOPBACK = ports.HOST
API_NAMES = (
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """The addresses of one control plane. etcd stays on the loopback: it has no access control here."""

    address: str
    api_port: int
    etcd_port: int
    etcd_peer_port: int
    has_node: bool

    @property
    def api_url(self) -> str:
        """The API server's URL."""
        return f"https://{self.address}:{self.api_port}"

    @property
    def etcd_url(self) -> str:
        """The URL of etcd for its client, the API server."""
        return f"http://{LOOPBACK}:{self.etcd_port}"


def control_plane_identities(endpoints: Endpoints) -> dict[str, Identity]:
    """The certificates of the control plane, by file name; all signed by `ca`."""
    addresses = tuple(dict.fromkeys((endpoints.address, LOOPBACK, API_SERVICE_ADDRESS)))
    masters = ("system:masters",)
    return {
        "api-server": Identity(user="kube-apiserver", names=API_NAMES, addresses=addresses),
        "api-server-kubelet": Identity(user="kube-apiserver-kubelet-client", groups=masters),
        "admin": Identity(user="dtq-admin", groups=masters),
        "controller-manager": Identity(user="system:kube-controller-manager"),
        "scheduler": Identity(user="system:kube-scheduler"),
    }


def etcd_flags(endpoints: Endpoints, data: Path) -> list[str]:
    """Return the flags of one member on the loopback; without fsync, since no data has to survive a power cut."""
    peer = f"http://{LOOPBACK}:{endpoints.etcd_peer_port}"
    return [
        "--name=dtq",
        f"--data-dir={data}",
        f"--listen-client-urls={endpoints.etcd_url}",
        f"--advertise-client-urls={endpoints.etcd_url}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=dtq={peer}",
        "--unsafe-no-fsync",
        "--logger=zap",
        "--log-level=warn",
    ]


def api_server_flags(endpoints: Endpoints, pki: Pki) -> list[str]:
    """The API server with RBAC, admission and aggregation as on a real cluster."""
    flags = [
        f"--etcd-servers={endpoints.etcd_url}",
        f"--bind-address={endpoints.address}",
        f"--advertise-address={endpoints.address}",
        f"--secure-port={endpoints.api_port}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--authorization-mode=Node,RBAC",
        "--allow-privileged=true",
        f"--client-ca-file={pki.certificate('ca')}",
        f"--tls-cert-file={pki.certificate('api-server')}",
        f"--tls-private-key-file={pki.key('api-server')}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki.folder / 'service-account.pub'}",
        f"--service-account-signing-key-file={pki.key('service-account')}",
        f"--requestheader-client-ca-file={pki.certificate('front-proxy-ca')}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-username-headers=X-Remote-User",
        f"--proxy-client-cert-file={pki.certificate('front-proxy')}",
        f"--proxy-client-key-file={pki.key('front-proxy')}",
        "--profiling=false",
    ]
    if endpoints.has_node:
        return [
            *flags,
            "--enable-admission-plugins=NodeRestriction",
            f"--kubelet-client-certificate={pki.certificate('api-server-kubelet')}",
            f"--kubelet-client-key={pki.key('api-server-kubelet')}",
            # The node's name cannot be resolved: without this, `kubectl logs` and `exec` fail.
            "--kubelet-preferred-address-types=InternalIP",
        ]
    return [
        *flags,
        # This plugin waits for service accounts, and there is no controller that makes them.
        "--disable-admission-plugins=ServiceAccount",
        # A loopback address must not become the `kubernetes` Service's endpoint.
        "--endpoint-reconciler-type=none",
    ]


def controller_manager_flags(endpoints: Endpoints, pki: Pki, kubeconfig: Path) -> list[str]:
    """One instance, so no election; each controller acts with its own service account."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={endpoints.address}",
        f"--cluster-cidr={POD_RANGE}",
        f"--service-cluster-ip-range={SERVICE_RANGE}",
        "--allocate-node-cidrs=false",
        "--leader-elect=false",
        "--use-service-account-credentials",
        f"--root-ca-file={pki.certificate('ca')}",
        f"--service-account-private-key-file={pki.key('service-account')}",
        f"--cluster-signing-cert-file={pki.certificate('ca')}",
        f"--cluster-signing-key-file={pki.key('ca')}",
    ]


def scheduler_flags(endpoints: Endpoints, kubeconfig: Path) -> list[str]:
    """One instance, so no election."""
    return [
        f"--kubeconfig={kubeconfig}",
        f"--authentication-kubeconfig={kubeconfig}",
        f"--authorization-kubeconfig={kubeconfig}",
        f"--bind-address={endpoints.address}",
        "--leader-elect=false",
    ]

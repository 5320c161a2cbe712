"""The configuration of containerd, kubelet, kube-proxy and CNI, as pure functions of paths."""

from pathlib import Path

from hack.cluster import config
from hack.cluster.pki import Identity, Pki

PAUSE_IMAGE = "localhost/dtq/pause:1"
POD_NETWORK = "dtq"

Json = dict[str, object]


def node_identities() -> dict[str, Identity]:
    """The certificates of the node's programs, by file name; all signed by `ca`."""
    kubelet = Identity(
        user=f"system:node:{config.NODE_NAME}",
        groups=("system:nodes",),
        names=(config.NODE_NAME,),
        addresses=(config.NODE_ADDRESS,),
    )
    return {"kubelet": kubelet, "kube-proxy": Identity(user="system:kube-proxy")}


def containerd_toml(*, folder: Path, socket: Path, cni_configs: Path, cni_programs: Path) -> str:
    """Return the configuration of a containerd below `folder` that shares no path with the system's."""
    return f"""\
version = 2
root = "{folder}/root"
state = "{folder}/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
netns_mounts_under_state_dir = true
# Where root may not lower a process's score (CAP_SYS_RESOURCE), every sandbox dies without this.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni_programs}"
conf_dir = "{cni_configs}"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"""


def cni_conflist(addresses: Path) -> Json:
    """Return one bridge for all pods of the node; used addresses are recorded in `addresses`."""
    subnets = [[{"subnet": config.POD_RANGE}]]
    bridge = {
        "type": "bridge",
        "bridge": config.POD_BRIDGE,
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "ranges": subnets,
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(addresses),
        },
    }
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": POD_NETWORK, "plugins": [bridge, portmap]}


def kubelet_config(*, folder: Path, socket: Path, pki: Pki, cgroup: str, resolv_conf: Path) -> Json:
    """Return the configuration of a kubelet below `folder` that does not evict pods when a disk is full."""
    never = {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"}
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": config.NODE_ADDRESS,
        "healthzBindAddress": config.NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.certificate("ca"))},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": str(pki.certificate("kubelet")),
        "tlsPrivateKeyFile": str(pki.key("kubelet")),
        "clusterDNS": [config.DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv_conf),
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "podLogsDir": str(folder / "pod-logs"),
        "volumePluginDir": str(folder / "volume-plugins"),
        "evictionHard": never,
        "imageGCHighThresholdPercent": 100,
        # Several pods of a test start at once; the node is idle otherwise.
        "serializeImagePulls": False,
        "syncFrequency": "10s",
    }


def kubelet_flags(*, config_file: Path, kubeconfig: Path, folder: Path) -> list[str]:
    """Return the settings that kubelet's configuration file does not have."""
    return [
        f"--config={config_file}",
        f"--kubeconfig={kubeconfig}",
        f"--root-dir={folder}",
        f"--hostname-override={config.NODE_NAME}",
        f"--node-ip={config.NODE_ADDRESS}",
    ]


def kube_proxy_config(kubeconfig: Path) -> Json:
    """Return a kube-proxy that uses iptables. Zero leaves the machine's connection tracking unchanged."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "bindAddress": config.NODE_ADDRESS,
        "healthzBindAddress": f"{config.NODE_ADDRESS}:10256",
        "metricsBindAddress": f"{config.NODE_ADDRESS}:10249",
        "nodePortAddresses": [f"{config.NODE_ADDRESS}/32"],
        "clusterCIDR": config.POD_RANGE,
        "hostnameOverride": config.NODE_NAME,
        "iptables": {"localhostNodePorts": False},
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }

"""Records what a native cluster changes on the machine outside its state folder, and restores it.

The record is written before the first change, and only what was recorded is restored.
"""

import json
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from hack.cluster.native import iptables
from hack.cluster.state import State

# Set here or by kubelet and kube-proxy.
SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/bridge/bridge-nf-call-iptables",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
# Made by containerd, CNI and kubelet at paths that cannot be configured.
FOLDERS = (
    "/etc/cni",
    "/opt/cni",
    "/opt/containerd",
    "/run/containerd",
    "/usr/libexec/kubernetes",
    "/var/lib/cni",
    "/var/lib/kubelet",
    "/var/log/containers",
    "/var/log/pods",
)
BRIDGE_MODULE = "br_netfilter"
_SYSCTL = Path("/proc/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """The state of the machine before the cluster."""

    settings: dict[str, str]
    absent_folders: list[str]
    chains: list[str]


def note(state: State) -> None:
    """Record the state of the machine, once for each cluster."""
    if _file(state).exists():
        return
    if not (_SYSCTL / "net/bridge").exists():
        subprocess.run(["modprobe", BRIDGE_MODULE], check=True)
    there = [name for name in SETTINGS if (_SYSCTL / name).exists()]
    taken = Note(
        settings={name: (_SYSCTL / name).read_text().strip() for name in there},
        absent_folders=[folder for folder in FOLDERS if not Path(folder).exists()],
        chains=iptables.chains(),
    )
    _file(state).write_text(json.dumps(asdict(taken), indent=2) + "\n")


def set_up() -> None:
    """Enable forwarding of packets, and the firewall for packets that cross a bridge."""
    for name in ("net/ipv4/ip_forward", "net/bridge/bridge-nf-call-iptables"):
        (_SYSCTL / name).write_text("1\n")


def restore(state: State) -> None:
    """Restore the recorded state. The cluster's programs must have ended, or they change it again."""
    if not _file(state).exists():
        return
    noted = Note(**json.loads(_file(state).read_text()))
    iptables.remove(noted.chains)
    for name, value in noted.settings.items():
        if (_SYSCTL / name).read_text().strip() != value:
            (_SYSCTL / name).write_text(value + "\n")
    for folder in noted.absent_folders:
        shutil.rmtree(folder, ignore_errors=True)


def _file(state: State) -> Path:
    return state.folder / "host.json"

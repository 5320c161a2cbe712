"""Renders, starts and stops the controllers and the programs of the node except containerd.

They start after the API server is ready; when `stop` returns, none of them runs.
"""

import json
from pathlib import Path

from hack.cluster import config, kubectl
from hack.cluster.control_plane import ControlPlane
from hack.cluster.native import cgroups, containerd, node_config, programs
from hack.cluster.state import State
from hack.cluster.supervisor import Supervisor
from hack.lib.files import write_private
from hack.lib.waiting import wait_until

CONTROLLERS = ("kube-controller-manager", "kube-scheduler")
NODE_PROGRAMS = ("kubelet", "kube-proxy")
PROGRAMS = (*CONTROLLERS, *NODE_PROGRAMS)
READY_TIMEOUT_SECONDS = 60.0
# With systemd-resolved, /etc/resolv.conf names a resolver that only the machine itself can reach.
RESOLV_CONFS = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))


class Node:
    """Controller manager, scheduler, kubelet and kube-proxy of one state folder."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._supervisor = Supervisor(state.folder)
        self._kubelet_folder = state.folder / "kubelet"

    def start(self, plane: ControlPlane) -> None:
        """Start what does not run yet; return when the node is Ready."""
        cgroups.make(cgroups.name_of(self._state.folder))
        flags = self._render(plane)
        for name, path in programs.ensure(PROGRAMS).items():
            if not self._supervisor.running(name):
                self._supervisor.start(name, [str(path), *flags[name]])
        wait_until(
            self._ready,
            "the node is Ready",
            timeout_seconds=READY_TIMEOUT_SECONDS,
            log=self._supervisor.log("kubelet"),
            next_step=f"kubectl --kubeconfig {self._state.kubeconfig} describe node",
        )

    def stop(self) -> None:
        """Stop kubelet first, so that no pod comes back, then the others side by side."""
        self._supervisor.stop("kubelet")
        for name in PROGRAMS:
            self._supervisor.ask_to_stop(name)
        for name in PROGRAMS:
            self._supervisor.stop(name)

    def _ready(self) -> bool:
        for name in PROGRAMS:
            self._supervisor.check(name)
        condition = '{.items[*].status.conditions[?(@.type=="Ready")].status}'
        return kubectl.run(self._state.kubeconfig, "get", "nodes", "-o", f"jsonpath={condition}") == "True"

    def _render(self, plane: ControlPlane) -> dict[str, list[str]]:
        """Write the files of every program; return the flags of each."""
        for name, identity in node_config.node_identities().items():
            if not plane.pki.certificate(name).exists():
                plane.pki.leaf(name, identity)
        etc = self._state.etc
        kubeconfigs = {
            name: etc / f"{name}.kubeconfig" for name in ("controller-manager", "scheduler", "kubelet", "kube-proxy")
        }
        for name, file in kubeconfigs.items():
            write_private(file, plane.pki.kubeconfig(name, plane.endpoints.api_url))
        kubelet = node_config.kubelet_config(
            folder=self._kubelet_folder,
            socket=containerd.Containerd(self._state).socket,
            pki=plane.pki,
            cgroup=cgroups.name_of(self._state.folder),
            resolv_conf=next(file for file in RESOLV_CONFS if file.exists()),
        )
        proxy = node_config.kube_proxy_config(kubeconfigs["kube-proxy"])
        _write_json(etc / "kubelet.json", kubelet)
        _write_json(etc / "kube-proxy.json", proxy)
        addresses = self._state.folder / "pod-addresses"
        _write_json(etc / "cni" / "10-dtq.conflist", node_config.cni_conflist(addresses))
        manager = kubeconfigs["controller-manager"]
        return {
            "kube-controller-manager": config.controller_manager_flags(plane.endpoints, plane.pki, manager),
            "kube-scheduler": config.scheduler_flags(plane.endpoints, kubeconfigs["scheduler"]),
            "kubelet": node_config.kubelet_flags(
                config_file=etc / "kubelet.json",
                kubeconfig=kubeconfigs["kubelet"],
                folder=self._kubelet_folder,
            ),
            "kube-proxy": [f"--config={etc / 'kube-proxy.json'}"],
        }


def _write_json(file: Path, content: object) -> None:
    text = json.dumps(content, indent=2) + "\n"
    # kube-proxy ends when its file is written, even with the same content.
    if not file.exists() or file.read_text() != text:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

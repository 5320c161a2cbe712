"""The provider `native`: a Kubernetes cluster of one node, run on this machine itself.

Can always be removed: the state of the machine is recorded before the first change, and `down` also removes a cluster
that is only partly there.
"""

import os
import platform
from collections.abc import Iterator
from pathlib import Path

from hack.cluster import config, control_plane, images, kubectl, probe
from hack.cluster.native import coredns, host, network, node, node_config, programs, versions
from hack.cluster.native.containerd import Containerd
from hack.cluster.state import State
from hack.cluster.supervisor import Supervisor
from hack.lib import apt
from hack.lib.errors import HackError
from hack.lib.report import step
from hack.lib.waiting import wait_until

PROGRAMS = (*control_plane.PROGRAMS, *node.PROGRAMS, "pause", "coredns")
IMAGES = {"pause": node_config.PAUSE_IMAGE, "coredns": coredns.IMAGE}
DNS_TIMEOUT_SECONDS = 60.0
DNS_NAME = "kubernetes.default.svc.cluster.local"
_QUERY_TIMEOUT_SECONDS = 1.0


class Native:
    """One node on this machine."""

    programs = PROGRAMS

    def up(self, state: State) -> None:
        """Build, start and check the cluster."""
        _require_linux_root()
        other = network.owner()
        if other not in {None, state.folder}:
            raise HackError(
                f"this machine has a native cluster already, in {other}",
                next_step=f"take it down: python -m hack.cluster down --state {other}",
            )
        apt.ensure(state.folder / "logs" / "apt-get.log", versions.debian_packages())
        programs.ensure(PROGRAMS)
        host.note(state)
        with step("network"):
            host.set_up()
            network.up(state.folder)
        runtime = Containerd(state)
        with step("containerd and its own images"):
            runtime.start()
            _load_own_images(state, runtime)
        plane = control_plane.up(state, address=config.NODE_ADDRESS, api_port=config.API_PORT)
        with step("controllers and node"):
            node.Node(state).start(plane)
        with step(f"CoreDNS answers at {config.DNS_ADDRESS}"):
            _serve_dns(state)

    def down(self, state: State) -> None:
        """Remove everything; missing parts are skipped."""
        _require_linux_root()
        with step("node, pods and containerd"):
            node.Node(state).stop()
            Containerd(state).stop()
        with step("control plane"):
            control_plane.stop(state)
        with step("network, firewall, kernel settings"):
            if network.owner() in {None, state.folder}:
                network.down()
            host.restore(state)
        state.remove()

    def status(self, state: State) -> Iterator[str]:
        """Yield the processes, the nodes and the pods."""
        yield from Supervisor(state.folder).status()
        yield kubectl.run(state.kubeconfig, "get", "nodes,pods", "--all-namespaces", "-o", "wide")
        Supervisor(state.folder).check_all()

    def load(self, state: State, archive: Path) -> None:
        """Import the archive into the node's containerd."""
        Containerd(state).load(archive)

    def tag(self, state: State, image: str, name: str) -> None:
        """Tag the image in the node's containerd."""
        Containerd(state).tag(image, name)


def _require_linux_root() -> None:
    if platform.system() != "Linux" or platform.machine() not in images.ARCHITECTURES:
        raise HackError(
            f"the provider native does not run on {platform.system()} {platform.machine()}",
            next_step="start a Docker engine, so that kind can be used, or give a --kubeconfig",
        )
    if os.geteuid() != 0:
        raise HackError(
            "the provider native makes network devices and control groups: it needs root",
            next_step="run it by sudo, start a Docker engine, so that kind can be used, or give a --kubeconfig",
        )


def _load_own_images(state: State, runtime: Containerd) -> None:
    archive = state.folder / "image.tar"
    for name, path in programs.ensure(IMAGES).items():
        images.write_archive(archive, name=IMAGES[name], program=path, machine=platform.machine())
        runtime.load(archive)
    archive.unlink()


def _serve_dns(state: State) -> None:
    def applied() -> bool:
        try:
            kubectl.run(state.kubeconfig, "apply", "-f", "-", manifest=coredns.manifest())
        except HackError:
            return False  # the API server makes the namespace kube-system shortly after it is ready
        return True

    def answered() -> bool:
        return probe.resolves(config.DNS_ADDRESS, DNS_NAME, timeout_seconds=_QUERY_TIMEOUT_SECONDS)

    describe = f"kubectl --kubeconfig {state.kubeconfig} -n {coredns.NAMESPACE}"
    for met, what, next_step in (
        (applied, "CoreDNS is applied", f"{describe} get all"),
        (answered, "CoreDNS answers", f"{describe} describe pod -l k8s-app=kube-dns"),
    ):
        wait_until(met, what, timeout_seconds=DNS_TIMEOUT_SECONDS, next_step=next_step)

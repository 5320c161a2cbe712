"""Runs the cluster's containerd: configuration, start, import of images, stop with all pods.

Its socket is in the state folder, apart from any other containerd.
"""

import shutil
import subprocess
from pathlib import Path

from hack.cluster.native import cgroups, mounts, node_config
from hack.cluster.state import State
from hack.cluster.supervisor import Supervisor
from hack.lib import commands, processes
from hack.lib.errors import HackError
from hack.lib.waiting import wait_until

START_TIMEOUT_SECONDS = 30.0
IMPORT_TIMEOUT_SECONDS = 300.0
SHIM_TIMEOUT_SECONDS = 10.0
CNI_PROGRAMS = Path("/usr/lib/cni")
# Kubernetes' images have a namespace of their own in containerd.
NAMESPACE = "k8s.io"
_NEXT_STEP = "the provider native needs containerd's packages: take the cluster down and up again"


class Containerd:
    """The container runtime of one state folder."""

    def __init__(self, state: State) -> None:
        self.socket = state.folder / "containerd.sock"
        self._state = state
        self._folder = state.folder / "containerd"
        self._supervisor = Supervisor(state.folder)

    def start(self) -> None:
        """Start containerd unless it runs; return when it answers."""
        if self._supervisor.running("containerd"):
            return
        settings = self._state.etc / "containerd.toml"
        cni_configs = self._state.etc / "cni"
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(
            node_config.containerd_toml(
                folder=self._folder, socket=self.socket, cni_configs=cni_configs, cni_programs=CNI_PROGRAMS
            )
        )
        program = commands.require("containerd", _NEXT_STEP)
        self._supervisor.start("containerd", [program, "--config", str(settings)])
        wait_until(
            self._answers,
            "containerd answers",
            timeout_seconds=START_TIMEOUT_SECONDS,
            log=self._supervisor.log("containerd"),
            next_step="take the cluster down",
        )

    def load(self, archive: Path) -> None:
        """Import the images of an archive, for pods to use."""
        done = self._ctr("images", "import", str(archive), timeout_seconds=IMPORT_TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise HackError(f"ctr could not import {archive}: {done.stderr.strip()}")

    def tag(self, image: str, name: str) -> None:
        """Give a loaded image another name."""
        done = self._ctr("images", "tag", "--force", image, name, timeout_seconds=IMPORT_TIMEOUT_SECONDS)
        if done.returncode != 0:
            raise HackError(f"ctr could not call {image} also {name}: {done.stderr.strip()}")

    def stop(self) -> None:
        """End every pod, then containerd, and remove what it left: shims, mounts, control groups."""
        cgroups.kill_all(cgroups.name_of(self._state.folder))
        self._supervisor.stop("containerd")
        wait_until(
            self._shims_gone,
            "containerd's shims are gone",
            timeout_seconds=SHIM_TIMEOUT_SECONDS,
            log=self._supervisor.log("containerd"),
        )
        mounts.unmount_below(self._state.folder)
        cgroups.remove(cgroups.name_of(self._state.folder))
        # This folder cannot be configured; our entries in it have the name of our network.
        for left in Path("/var/lib/cni/results").glob(f"{node_config.POD_NETWORK}-*"):
            left.unlink()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _answers(self) -> bool:
        self._supervisor.check("containerd")
        return self._ctr("version", timeout_seconds=START_TIMEOUT_SECONDS).returncode == 0

    def _ctr(self, *arguments: str, timeout_seconds: float) -> "subprocess.CompletedProcess[str]":
        program = commands.require("ctr", _NEXT_STEP)
        command = [program, "--address", str(self.socket), "--namespace", NAMESPACE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=False)

    def _shims_gone(self) -> bool:
        """Kill the shims of our containerd, which have its socket among their arguments."""
        address = str(self.socket)
        shims = [
            process
            for process in processes.everyone()
            if address in (words := processes.arguments(process.pid)) and "containerd-shim" in words[0]
        ]
        for shim in shims:
            shim.send(processes.KILL)
        return not shims

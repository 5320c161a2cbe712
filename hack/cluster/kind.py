"""The provider `kind`: a cluster in containers of the machine's Docker engine.

Never touches a kind cluster of another name, or other containers of the engine.
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from hack.cluster import kubectl
from hack.cluster.native import programs, versions
from hack.cluster.state import State
from hack.lib.errors import HackError
from hack.lib.report import step

CLUSTER = "dtq"
NODE_IMAGE = versions.node_image()
ASK_TIMEOUT_SECONDS = 20.0
PULL_TIMEOUT_SECONDS = 300.0
CREATE_TIMEOUT_SECONDS = 600.0


def usable() -> bool:
    """Return whether a Docker engine runs here that has, or can pull, the node image."""
    if not _engine_runs():
        return False
    if _succeeds(["docker", "image", "inspect", NODE_IMAGE], ASK_TIMEOUT_SECONDS):
        return True
    with step(f"pull {NODE_IMAGE}"):
        return _succeeds(["docker", "pull", NODE_IMAGE], PULL_TIMEOUT_SECONDS)


class Kind:
    """A kind cluster of one node."""

    programs = ("kind", "kubectl")

    def up(self, state: State) -> None:
        """Create the cluster unless it exists."""
        _require_engine()
        if CLUSTER not in _kind(state, ["get", "clusters"], ASK_TIMEOUT_SECONDS).split():
            with step(f"kind cluster {CLUSTER}"):
                create = ["create", "cluster", "--image", NODE_IMAGE, "--wait", "180s", *_named(state)]
                _kind(state, create, CREATE_TIMEOUT_SECONDS)
        _kind(state, ["export", "kubeconfig", *_named(state)], ASK_TIMEOUT_SECONDS)

    def down(self, state: State) -> None:
        """Delete the cluster; without an engine, that fails if one was created."""
        if _engine_runs() or state.kubeconfig.exists():
            _require_engine()
            with step(f"delete the kind cluster {CLUSTER}"):
                _kind(state, ["delete", "cluster", *_named(state)], CREATE_TIMEOUT_SECONDS)
        state.remove()

    def status(self, state: State) -> Iterator[str]:
        """Yield the node of the cluster."""
        yield kubectl.run(state.kubeconfig, "get", "nodes", "-o", "wide")

    def load(self, state: State, archive: Path) -> None:
        """Load the archive into the node."""
        _kind(state, ["load", "image-archive", str(archive), "--name", CLUSTER], CREATE_TIMEOUT_SECONDS)

    def tag(self, state: State, image: str, name: str) -> None:
        """Tag the image in the engine, and load it under that name too."""
        command = ["docker", "tag", image, name]
        if not _succeeds(command, ASK_TIMEOUT_SECONDS):
            raise HackError(f"{' '.join(command)} failed", next_step="docker load the image's archive first")
        _kind(state, ["load", "docker-image", name, "--name", CLUSTER], CREATE_TIMEOUT_SECONDS)


def _engine_runs() -> bool:
    return _succeeds(["docker", "info"], ASK_TIMEOUT_SECONDS)


def _require_engine() -> None:
    if not _engine_runs():
        raise HackError(
            "the provider kind needs a Docker engine, and none answers",
            next_step="start it (docker info), or choose --provider native",
        )


def _named(state: State) -> list[str]:
    return ["--name", CLUSTER, "--kubeconfig", str(state.kubeconfig)]


def _kind(state: State, arguments: list[str], timeout_seconds: float) -> str:
    log = state.folder / "logs" / "kind.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [str(programs.ensure(["kind"])["kind"]), *arguments]
    with log.open("a") as errors:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, timeout=timeout_seconds, check=False
        )
    if done.returncode != 0:
        raise HackError(f"kind {arguments[0]} failed", log=log, next_step="read the log; `down` removes what is there")
    return done.stdout


def _succeeds(command: list[str], timeout_seconds: float) -> bool:
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_seconds, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0

"""The provider `existing`: a cluster that someone else made, given by its kubeconfig.

The cluster is never changed: `up` checks that its API server answers, and `down` forgets it.
"""

from collections.abc import Iterator
from pathlib import Path

from hack.cluster import kubectl
from hack.cluster.state import State
from hack.lib.errors import HackError
from hack.lib.report import step


class Existing:
    """A cluster that already exists."""

    programs = ("kubectl",)

    def __init__(self, kubeconfig: Path | None) -> None:
        self._kubeconfig = kubeconfig

    def up(self, state: State) -> None:
        """Ask the cluster whether it is ready, and copy its kubeconfig."""
        source = self._kubeconfig or state.kubeconfig
        if not source.is_file():
            raise HackError(f"{source}: no such kubeconfig", next_step="give --kubeconfig or set DTQ_KUBECONFIG")
        # Flattened, since a kubeconfig may name its certificates relative to its own folder.
        state.write_kubeconfig(kubectl.run(source, "config", "view", "--raw", "--flatten", "--minify"))
        with step(f"the cluster of {source} serves"):
            kubectl.run(state.kubeconfig, "get", "--raw", "/readyz")

    def down(self, state: State) -> None:
        """Forget the cluster."""
        state.remove()

    def status(self, state: State) -> Iterator[str]:
        """Yield the nodes of the cluster."""
        yield kubectl.run(state.kubeconfig, "get", "nodes", "-o", "wide")

    def load(self, state: State, archive: Path) -> None:
        """Refuse: the nodes of the cluster are unknown here."""
        raise HackError(
            f"{archive}: images cannot be loaded into the cluster of {state.kubeconfig}",
            next_step="push the image to a registry that its nodes can pull from",
        )

    def tag(self, state: State, image: str, name: str) -> None:
        """Refuse: no image was loaded."""
        raise HackError(f"{image}: images of the cluster of {state.kubeconfig} cannot be named {name}")

"""Chooses the provider of the cluster, and declares what every provider can do.

The provider of an existing cluster is read from its state folder.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from hack.cluster import control_plane, existing, kind
from hack.cluster.native.provider import Native
from hack.cluster.state import State
from hack.lib.errors import HackError

AUTO = "auto"


class Provider(Protocol):
    """What a cluster can be asked for. Every call gets the state folder of one cluster."""

    @property
    def programs(self) -> tuple[str, ...]:
        """What `up` needs of the programs that are built here."""
        ...

    def up(self, state: State) -> None:
        """Make the cluster, or repair it; back when it serves and its kubeconfig is written."""

    def down(self, state: State) -> None:
        """Remove all that `up` made, the state folder last; whatever half of it is there."""

    def status(self, state: State) -> Iterator[str]:
        """Say in a few lines what runs, then raise if the cluster does not serve."""

    def load(self, state: State, archive: Path) -> None:
        """Make the images of an archive available to pods."""

    def tag(self, state: State, image: str, name: str) -> None:
        """Give a loaded image a further name."""


def by_name(name: str, kubeconfig: Path | None = None) -> Provider:
    """The provider called `name`; `kubeconfig` is what `existing` takes over."""
    match name:
        case "existing":
            return existing.Existing(kubeconfig)
        case "kind":
            return kind.Kind()
        case "native":
            return Native()
        case "control-plane":
            return control_plane.Provider()
        case _:
            raise HackError(f"no provider is called {name}")


def choose(state: State, wanted: str, kubeconfig: Path | None) -> str:
    """The provider's name: as asked, else whose cluster is there, else the first that can work."""
    if wanted != AUTO:
        return wanted
    if kubeconfig is not None:
        return "existing"
    return state.provider() or ("kind" if kind.usable() else "native")

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
    """The operations on a cluster. Every call gets the state folder of one cluster."""

    @property
    def programs(self) -> tuple[str, ...]:
        """The programs that `up` needs, of those that are built here."""
        ...

    def up(self, state: State) -> None:
        """Create or repair the cluster; return when it serves and its kubeconfig is written."""

    def down(self, state: State) -> None:
        """Remove all that `up` made, the state folder last; parts may be missing."""

    def status(self, state: State) -> Iterator[str]:
        """Yield a few lines about what runs, then raise if the cluster does not serve."""

    def load(self, state: State, archive: Path) -> None:
        """Make the images of an archive available to pods."""

    def tag(self, state: State, image: str, name: str) -> None:
        """Give a loaded image another name."""


def by_name(name: str, kubeconfig: Path | None = None) -> Provider:
    """Return the provider called `name`; `existing` uses `kubeconfig`."""
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
    """Return the provider's name: the requested one, else that of the existing cluster, else the first usable one."""
    if wanted != AUTO:
        return wanted
    if kubeconfig is not None:
        return "existing"
    return state.provider() or ("kind" if kind.usable() else "native")

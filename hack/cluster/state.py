"""A cluster's state folder: its paths, its description of the cluster, and the lock of the command at work.

The supervisor knows what runs, not this folder. The folder ends with the cluster.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.lib.errors import HackError
from hack.lib.files import exclusive, write_private


def default_state() -> Path:
    """Return the state folder of the default cluster: DTQ_CLUSTER_STATE, else `default_folder`."""
    return Path(os.environ.get("DTQ_CLUSTER_STATE") or default_folder())


def default_folder() -> Path:
    """Return ${XDG_STATE_HOME:-~/.local/state}/dtq/cluster: one cluster per user for all checkouts."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "dtq" / "cluster"


@dataclass(frozen=True, slots=True)
class State:
    """The state folder of one cluster."""

    folder: Path

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, which every command uses."""
        return self.folder / "kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def etc(self) -> Path:
        """Rendered configuration of the cluster's programs."""
        return self.folder / "etc"

    @property
    def _record(self) -> Path:
        return self.folder / "cluster.json"

    def provider(self) -> str | None:
        """Return the name of the provider that made the cluster; None if there is no cluster."""
        try:
            return str(json.loads(self._record.read_text())["provider"])
        except FileNotFoundError:
            return None

    def claim(self, provider: str) -> None:
        """Record the provider before it makes anything, so that `down` works after any failure."""
        there = self.provider()
        if there is None and any(self.folder.iterdir()):
            raise HackError(
                f"{self.folder} is not empty and not a cluster's: `down` would remove what is in it",
                next_step="give another --state",
            )
        if there not in {None, provider}:
            raise HackError(
                f"{self.folder} holds a cluster of the provider {there}",
                next_step="take it down first, or give another --state",
            )
        self._record.write_text(json.dumps({"provider": provider}) + "\n")

    def write_kubeconfig(self, content: str) -> None:
        """Write the administrator's kubeconfig, readable only by its owner."""
        write_private(self.kubeconfig, content)

    def remove(self) -> None:
        """Remove the folder and everything in it."""
        shutil.rmtree(self.folder)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Let one command at a time change the cluster; a second command fails at once."""
        with exclusive(self.folder, "the cluster"):
            yield

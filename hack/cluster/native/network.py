"""The cluster's network devices and routes: the bridge of the node and the bridge of the pods.

Never touches a device of another name.
"""

import subprocess
from pathlib import Path

from hack.cluster.config import NODE_ADDRESS, NODE_BRIDGE, POD_BRIDGE, POD_RANGE, SERVICE_RANGE
from hack.cluster.native import iptables
from hack.lib.errors import HackError

NODE_PREFIX = 24
_DEVICES = Path("/sys/class/net")


def owner() -> Path | None:
    """Return the state folder of the cluster that uses this machine, or None."""
    try:
        alias = (_DEVICES / NODE_BRIDGE / "ifalias").read_text().strip()
    except FileNotFoundError:
        return None
    return Path(alias) if alias else None  # interrupted before the alias was set


def up(state_folder: Path) -> None:
    """Give the node its address, and its services their route."""
    if not _exists(NODE_BRIDGE):
        _ip("link", "add", NODE_BRIDGE, "type", "bridge")
    _ip("link", "set", NODE_BRIDGE, "alias", str(state_folder))
    _ip("address", "replace", f"{NODE_ADDRESS}/{NODE_PREFIX}", "dev", NODE_BRIDGE)
    _ip("link", "set", NODE_BRIDGE, "up")
    # Before the API server starts: a connection that it opens to a service before kube-proxy has
    # its rules would use the default route, and keep using it for as long as it is open.
    _ip("route", "replace", SERVICE_RANGE, "dev", NODE_BRIDGE)
    iptables.allow_pods(POD_RANGE)


def down() -> None:
    """Remove both bridges; their addresses and routes go with them."""
    for device in (POD_BRIDGE, NODE_BRIDGE):
        if _exists(device):
            _ip("link", "delete", device)


def _exists(device: str) -> bool:
    return (_DEVICES / device).exists()


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HackError(
            f"ip {' '.join(arguments)}: {done.stderr.strip()}",
            next_step="look for another network that has this range: ip route",
        )

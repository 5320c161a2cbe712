"""TCP ports: whether a port is free, which process holds it, and picking free ports.

Ports are picked below the kernel's ephemeral range where possible: in that range, an outgoing connection of another
process could take the port before the server listens.
"""

import contextlib
import random
import socket
from pathlib import Path

from hack.lib import processes
from hack.lib.errors import HackError

HOST = "127.0.0.1"
CHOSEN_MIN = 20_000
_LISTEN = "0A"


def is_free(port: int, host: str = HOST) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen()
        except OSError:
            return False
    return True


def accepts(port: int) -> bool:
    """Whether a server listens on the port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def require_free(port: int, *, name: str, variable: str) -> None:
    """Raise if a port is taken; the error names the holder and the variable that changes our port."""
    if is_free(port):
        return
    holder = _holder(port) or "another process (run as root to see which)"
    raise HackError(
        f"{name} needs port {port} on {HOST}, but it is taken by {holder}.",
        next_step=f"stop that process, or choose another port: `make up {variable}=PORT`.",
    )


def choose(count: int) -> list[int]:
    """Return `count` free ports, below the ephemeral range where there is room."""
    candidates = choosable()
    free = [port for port in random.SystemRandom().sample(candidates, 200) if is_free(port)]
    if len(free) < count:
        raise HackError(f"fewer than {count} free TCP ports between {candidates[0]} and {candidates[-1]}.")
    return free[:count]


def choosable() -> range:
    """The ports that `choose` takes from."""
    top = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    low = CHOSEN_MIN if top > CHOSEN_MIN + 1000 else 1024
    return range(low, top if top > low + 1000 else 65_535)


def _holder(port: int) -> str:
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == _LISTEN:
                inodes.add(f"socket:[{fields[9]}]")
    for process in processes.everyone():
        if inodes & _descriptors(process.pid):
            command = " ".join(processes.arguments(process.pid))
            return f"pid {process.pid} ({' '.join(command.split())[:80]})"
    return ""


def _descriptors(pid: int) -> set[str]:
    found = set()
    try:
        for link in (processes.PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile, for instance our own listing
                found.add(str(link.readlink()))
    except OSError:
        return set()
    return found

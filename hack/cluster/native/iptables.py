"""Removes the firewall chains that a cluster's programs make: kube-proxy, kubelet, CNI.

Never touches a chain that existed before the cluster, or a rule that does not lead into one of ours.
"""

import re
import subprocess
from collections.abc import Iterable

from hack.lib.errors import HackError

PREFIXES = ("KUBE-", "CNI-", "DTQ-")
FAMILIES = ("iptables", "ip6tables")
TABLES = ("mangle", "nat", "filter")
FORWARD_CHAIN = "DTQ-FORWARD"
_LOCK_WAIT_SECONDS = "10"
_JUMP = re.compile(r" -[jg] (\S+)")


def chains() -> list[str]:
    """Return our chains in every table, as FAMILY/TABLE/CHAIN."""
    return [
        f"{family}/{table}/{chain}"
        for family in FAMILIES
        for table in TABLES
        for chain in ours(_save(family, table), ())
    ]


def allow_pods(pod_range: str) -> None:
    """Accept forwarded packets of pods where the machine's own policy (of a Docker engine) drops them."""
    if any(chain.endswith(f"/{FORWARD_CHAIN}") for chain in chains()):
        return
    rules = ["*filter", f":{FORWARD_CHAIN} - [0:0]", f"-A {FORWARD_CHAIN} -s {pod_range} -j ACCEPT"]
    rules += [f"-A {FORWARD_CHAIN} -d {pod_range} -j ACCEPT", f"-I FORWARD -j {FORWARD_CHAIN}", "COMMIT", ""]
    _restore("iptables", "\n".join(rules))


def remove(keep: Iterable[str]) -> None:
    """Remove our chains and the rules that lead into them, except the chains in `keep`."""
    kept = set(keep)
    for family in FAMILIES:
        for table in TABLES:
            spared = [name.rpartition("/")[2] for name in kept if name.startswith(f"{family}/{table}/")]
            script = removal(_save(family, table), table, spared)
            if script:
                _restore(family, script)


def ours(saved: str, spared: Iterable[str]) -> list[str]:
    """Return the names of our chains in the output of iptables-save."""
    names = [line[1:].split()[0] for line in saved.splitlines() if line.startswith(":")]
    return [name for name in names if name.startswith(PREFIXES) and name not in set(spared)]


def removal(saved: str, table: str, spared: Iterable[str]) -> str:
    """Return the input of iptables-restore --noflush that removes our chains; empty if there are none."""
    doomed = ours(saved, spared)
    if not doomed:
        return ""
    entries = [
        "-D" + line.removeprefix("-A")
        for line in saved.splitlines()
        if line.startswith("-A ") and line.split()[1] not in doomed and _leads_into(line, doomed)
    ]
    emptied = [f"-F {chain}" for chain in doomed]
    deleted = [f"-X {chain}" for chain in doomed]
    return "\n".join([f"*{table}", *entries, *emptied, *deleted, "COMMIT", ""])


def _leads_into(rule: str, doomed: Iterable[str]) -> bool:
    jump = _JUMP.search(rule)
    return jump is not None and jump.group(1) in set(doomed)


def _save(family: str, table: str) -> str:
    # A kernel without IPv6 does not have this table.
    asked = [f"{family}-save", "-t", table]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout


def _restore(family: str, script: str) -> None:
    command = [f"{family}-restore", "--noflush", "--wait", _LOCK_WAIT_SECONDS]
    done = subprocess.run(command, input=script, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HackError(f"{family}-restore: {done.stderr.strip()}", next_step=f"see {family}-save")

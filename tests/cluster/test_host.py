"""What is put back on the way down: exactly what the cluster brought."""

import io
import json
import struct
import tarfile
from pathlib import Path

from hack.cluster import images, probe
from hack.cluster.native import iptables, mounts
from hack.lib import ports

SAVED = """\
*nat
:PREROUTING ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:CNI-1f [0:0]
:DOCKER - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-THEIRS - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A PREROUTING -j KUBE-THEIRS
-A POSTROUTING -s 10.244.0.2/32 -m comment --comment "name: \\"dtq\\"" -j CNI-1f
-A KUBE-SERVICES -d 10.96.0.10/32 -j KUBE-THEIRS
COMMIT
"""


def test_only_our_chains_and_the_rules_into_them_are_removed() -> None:
    assert iptables.removal(SAVED, "nat", ["KUBE-THEIRS"]).splitlines() == [
        "*nat",
        '-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES',
        '-D POSTROUTING -s 10.244.0.2/32 -m comment --comment "name: \\"dtq\\"" -j CNI-1f',
        "-F CNI-1f",
        "-F KUBE-SERVICES",
        "-X CNI-1f",
        "-X KUBE-SERVICES",
        "COMMIT",
    ]


def test_a_table_without_our_chains_is_left_alone() -> None:
    assert iptables.removal(SAVED, "nat", ["KUBE-THEIRS", "KUBE-SERVICES", "CNI-1f"]) == ""


def test_mounts_below_the_folder_are_found_innermost_first() -> None:
    lines = [
        "30 1 8:1 / / rw - ext4 /dev/sda rw",
        "31 30 0:5 / /state/kubelet/a\\040b rw - tmpfs tmpfs rw",
        "32 31 0:6 / /state/kubelet/a\\040b/c rw - tmpfs tmpfs rw",
        "33 30 0:7 / /state-of-others rw - tmpfs tmpfs rw",
    ]
    assert mounts.below(Path("/state"), "\n".join(lines)) == [
        Path("/state/kubelet/a b/c"),
        Path("/state/kubelet/a b"),
    ]


def test_an_image_is_one_program_and_the_same_every_time(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"\x7fELF")
    first, second = tmp_path / "first.tar", tmp_path / "second.tar"
    for archive in (first, second):
        images.write_archive(archive, name="localhost/dtq/pause:1", program=program, machine="x86_64")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as opened:
        parts = {member.name: extracted.read() for member in opened if (extracted := opened.extractfile(member))}
    (manifest,) = json.loads(parts["manifest.json"])
    assert manifest["RepoTags"] == ["localhost/dtq/pause:1"]
    config = json.loads(parts[manifest["Config"]])
    assert config["config"] == {"Entrypoint": ["/pause"], "User": images.NOBODY}
    with tarfile.open(fileobj=io.BytesIO(parts["layer.tar"])) as layer:
        assert [(member.name, member.mode) for member in layer] == [("pause", 0o755)]


def test_a_dns_query_asks_for_one_address() -> None:
    query = probe.dns_query("a.bc")
    assert struct.unpack(">6H", query[:12])[1:] == (0x0100, 1, 0, 0, 0)
    assert query[12:] == b"\x01a\x02bc\x00" + struct.pack(">2H", 1, 1)


def test_free_ports_differ() -> None:
    chosen = ports.choose(20)
    assert len(set(chosen)) == 20
    assert all(port in ports.choosable() for port in chosen)

"""What each program is told, as values."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from hack.cluster import config, pki
from hack.cluster.native import coredns, node_config

PKI = pki.Pki(Path("/state/pki"))
ALONE = config.Endpoints(address="127.0.0.1", api_port=20001, etcd_port=20002, etcd_peer_port=20003, has_node=False)
WITH_NODE = config.Endpoints(
    address=config.NODE_ADDRESS, api_port=6443, etcd_port=20002, etcd_peer_port=20003, has_node=True
)


def settings_of(flags: list[str]) -> dict[str, str]:
    parts = [flag.removeprefix("--").partition("=") for flag in flags]
    return {name: value for name, _, value in parts}


def plain(content: object) -> Any:
    return json.loads(json.dumps(content))


@pytest.mark.parametrize("endpoints", [ALONE, WITH_NODE], ids=["alone", "with node"])
def test_etcd_is_for_this_machine_only(endpoints: config.Endpoints) -> None:
    settings = settings_of(config.etcd_flags(endpoints, Path("/state/etcd")))
    urls = [value for name, value in settings.items() if name.endswith("-urls")]
    assert len(urls) == 4
    assert all(url.startswith("http://127.0.0.1:") for url in urls)
    assert settings["data-dir"] == "/state/etcd"


@pytest.mark.parametrize("endpoints", [ALONE, WITH_NODE], ids=["alone", "with node"])
def test_the_api_server_listens_and_authorizes_as_told(endpoints: config.Endpoints) -> None:
    settings = settings_of(config.api_server_flags(endpoints, PKI))
    assert settings["bind-address"] == settings["advertise-address"] == endpoints.address
    assert settings["secure-port"] == str(endpoints.api_port)
    assert settings["etcd-servers"] == endpoints.etcd_url
    assert settings["authorization-mode"] == "Node,RBAC"
    assert all(value.startswith("/state/pki/") for name, value in settings.items() if name.endswith("-file"))


def test_an_api_server_without_a_node_waits_for_no_controller() -> None:
    settings = settings_of(config.api_server_flags(ALONE, PKI))
    assert settings["disable-admission-plugins"] == "ServiceAccount"
    assert settings["endpoint-reconciler-type"] == "none"


def test_an_api_server_with_a_node_reaches_it_by_its_address() -> None:
    settings = settings_of(config.api_server_flags(WITH_NODE, PKI))
    assert settings["kubelet-preferred-address-types"] == "InternalIP"
    assert settings["enable-admission-plugins"] == "NodeRestriction"


def test_the_api_servers_certificate_names_every_way_to_it() -> None:
    identity = config.control_plane_identities(WITH_NODE)["api-server"]
    extensions = pki.leaf_extensions(identity)
    for alternative in (
        "DNS:kubernetes.default.svc",
        "IP:127.0.0.1",
        f"IP:{config.NODE_ADDRESS}",
        "IP:10.96.0.1",
    ):
        assert alternative in extensions


def test_a_subject_has_its_groups_and_its_user() -> None:
    lines = pki.subject(pki.Identity(user="me", groups=("one", "two")))
    assert lines == "0.O = one\n1.O = two\nCN = me\n"


def test_containerd_is_wholly_in_the_state_folder() -> None:
    text = node_config.containerd_toml(
        folder=Path("/state/containerd"),
        socket=Path("/state/containerd.sock"),
        cni_configs=Path("/state/etc/cni"),
        cni_programs=Path("/usr/lib/cni"),
    )
    settings = tomllib.loads(text)
    assert {settings["root"], settings["state"], settings["grpc"]["address"]} == {
        "/state/containerd/root",
        "/state/containerd/state",
        "/state/containerd.sock",
    }
    runtime = settings["plugins"]["io.containerd.grpc.v1.cri"]
    assert runtime["restrict_oom_score_adj"] is True
    assert runtime["netns_mounts_under_state_dir"] is True
    assert runtime["sandbox_image"] == node_config.PAUSE_IMAGE


def test_kubelet_keeps_its_files_and_its_ports_to_the_cluster() -> None:
    kubelet = plain(
        node_config.kubelet_config(
            folder=Path("/state/kubelet"),
            socket=Path("/state/containerd.sock"),
            pki=PKI,
            cgroup="dtq-cluster",
            resolv_conf=Path("/etc/resolv.conf"),
        )
    )
    assert kubelet["address"] == kubelet["healthzBindAddress"] == config.NODE_ADDRESS
    assert kubelet["cgroupRoot"] == "/dtq-cluster"
    assert kubelet["failCgroupV1"] is False
    assert kubelet["podLogsDir"].startswith("/state/kubelet/")
    assert kubelet["volumePluginDir"].startswith("/state/kubelet/")
    assert kubelet["authentication"]["anonymous"] == {"enabled": False}


def test_pods_and_services_share_no_range() -> None:
    network = plain(node_config.cni_conflist(Path("/state/pod-addresses")))
    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": config.POD_RANGE}]]
    assert network["plugins"][0]["bridge"] == config.POD_BRIDGE
    proxy = plain(node_config.kube_proxy_config(Path("/state/etc/kube-proxy.kubeconfig")))
    assert proxy["clusterCIDR"] == config.POD_RANGE
    assert proxy["nodePortAddresses"] == [f"{config.NODE_ADDRESS}/32"]


def test_coredns_is_where_pods_are_told_and_within_the_restricted_standard() -> None:
    items = {item["kind"]: item for item in plain(coredns.manifest())["items"]}
    assert items["Service"]["spec"]["clusterIP"] == config.DNS_ADDRESS
    pod = items["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    target = {port["targetPort"] for port in items["Service"]["spec"]["ports"]}
    assert target == {port["containerPort"] for port in container["ports"]}

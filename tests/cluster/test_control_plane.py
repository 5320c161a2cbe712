"""A real API server: started, made to fail, gone without a trace."""

import socket
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hack.cluster import control_plane, kubectl
from hack.lib import ports
from hack.lib.errors import HackError
from hack.lib.processes import identify

# The first run on a machine builds etcd, the API server and kubectl.
pytestmark = pytest.mark.timeout(1800)


def test_a_control_plane_serves_survives_an_outage_and_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "plane"
    with control_plane.running(folder) as plane:
        assert kubectl.run(plane.kubeconfig, "get", "--raw", "/readyz") == "ok"
        kubectl.run(plane.kubeconfig, "create", "namespace", "kept")
        pids = [plane.supervisor.pid(name) for name in ("etcd", "kube-apiserver")]

        plane.stop_api_server()
        assert not plane.ready()
        with pytest.raises(HackError, match="refused"):
            kubectl.run(plane.kubeconfig, "get", "--raw", "/readyz")
        plane.start_api_server()
        assert kubectl.run(plane.kubeconfig, "get", "namespace", "kept", "-o", "name") == "namespace/kept\n"

        plane.kill_api_server()
        plane.start()
        assert plane.ready()
        pids.append(plane.supervisor.pid("kube-apiserver"))

    assert len({*pids, None}) == 4
    assert [identify(pid) for pid in pids if pid is not None] == [None] * 3
    assert not folder.exists()
    assert str(folder) not in subprocess.run(["ps", "-ewwo", "args"], check=True, capture_output=True, text=True).stdout


def test_a_start_waits_for_what_is_still_ending(tmp_path: Path) -> None:
    with control_plane.running(tmp_path / "plane") as plane:
        before = plane.supervisor.pid("kube-apiserver")
        plane.supervisor.ask_to_stop("kube-apiserver")
        plane.start()
        assert plane.ready()
        plane.supervisor.check_all()
        assert plane.supervisor.pid("kube-apiserver") != before, "the one that was told to end has ended"


def test_a_start_waits_for_the_port_that_a_former_control_plane_still_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It looks a second time only if it waits.
    looked = threading.Event()
    looks = 0

    def is_free(port: int, host: str = ports.HOST) -> bool:
        nonlocal looks
        free = ports_is_free(port, host)
        looks += not free
        if looks == 2:
            looked.set()
        return free

    ports_is_free = ports.is_free
    with control_plane.running(tmp_path / "plane") as plane, ThreadPoolExecutor(1) as other:
        plane.stop_api_server()
        monkeypatch.setattr(ports, "is_free", is_free)
        with socket.create_server((plane.endpoints.address, plane.endpoints.api_port)):
            starting = other.submit(plane.start)
            assert looked.wait(60), "it does not wait for the port"
        starting.result(timeout=120)
        assert plane.ready()


def test_two_control_planes_run_side_by_side(tmp_path: Path) -> None:
    with control_plane.running(tmp_path / "one") as one:
        with control_plane.running(tmp_path / "two") as two:
            kubectl.run(two.kubeconfig, "create", "namespace", "only-in-two")
        names = kubectl.run(one.kubeconfig, "get", "namespaces", "-o", "name")
    assert "namespace/default" in names
    assert "only-in-two" not in names

"""Runs etcd and the API server of one state folder; tests use `running()`.

Needs neither root nor a fixed port nor a network device: by default it listens on the loopback, so that several can
run side by side. There are no controllers: a deleted namespace stays Terminating, and dependants are not collected.
"""

import http.client
import json
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Self

from hack.cluster import config, probe
from hack.cluster.native import programs
from hack.cluster.pki import Identity, Pki
from hack.cluster.state import State
from hack.cluster.supervisor import Supervisor
from hack.lib import ports
from hack.lib.errors import HackError
from hack.lib.report import step
from hack.lib.waiting import wait_until

PROGRAMS = ("etcd", "kube-apiserver", "kubectl")
ETCD_TIMEOUT_SECONDS = 30.0
API_TIMEOUT_SECONDS = 60.0
# A graceful stop waits a minute for watches; the state is in etcd anyway.
API_STOP_SECONDS = 5.0
_REQUEST_TIMEOUT_SECONDS = 5.0


class ControlPlane:
    """etcd and the API server of one state folder."""

    def __init__(self, state: State, endpoints: config.Endpoints) -> None:
        self.endpoints = endpoints
        self.pki = Pki(state.pki)
        self.supervisor = Supervisor(state.folder)
        self._state = state

    @classmethod
    def create(cls, state: State, *, address: str = config.LOOPBACK, api_port: int | None = None) -> Self:
        """Create a control plane with its certificates and kubeconfig; it has a fixed port if it has a node."""
        free = ports.choose(3)
        endpoints = config.Endpoints(
            address=address,
            api_port=api_port or free[0],
            etcd_port=free[1],
            etcd_peer_port=free[2],
            has_node=api_port is not None,
        )
        made = cls(state, endpoints)
        made._make_certificates()
        state.write_kubeconfig(made.pki.kubeconfig("admin", endpoints.api_url))
        state.etc.mkdir(exist_ok=True)
        _endpoints_file(state).write_text(json.dumps(asdict(endpoints)) + "\n")
        return made

    @classmethod
    def load(cls, state: State) -> Self:
        """The control plane that `create` made in this state folder."""
        try:
            return cls(state, config.Endpoints(**json.loads(_endpoints_file(state).read_text())))
        except FileNotFoundError as error:
            raise HackError(f"{state.folder} has no control plane", next_step="run `up` first") from error

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._state.kubeconfig

    def start(self) -> None:
        """Start both unless they run; return when the API server is ready."""
        self._settle("etcd", ETCD_TIMEOUT_SECONDS, self._etcd_healthy)
        if not self.supervisor.running("etcd"):
            self.start_etcd()
        self._settle("kube-apiserver", API_TIMEOUT_SECONDS, self.ready)
        if not self.supervisor.running("kube-apiserver"):
            self.start_api_server()

    def stop(self) -> None:
        """Stop both; return when both have ended."""
        self.stop_api_server()
        self.stop_etcd()

    def start_etcd(self) -> None:
        """Start etcd; return when it answers."""
        flags = config.etcd_flags(self.endpoints, self._state.folder / "etcd")
        self._start("etcd", flags)
        self._wait("etcd", ETCD_TIMEOUT_SECONDS, self._etcd_healthy)

    def stop_etcd(self) -> None:
        """Stop etcd; its data stays."""
        self.supervisor.stop("etcd")

    def start_api_server(self) -> None:
        """Start the API server, on the same port as before; return when it is ready."""
        host, port = self.endpoints.address, self.endpoints.api_port
        wait_until(
            lambda: ports.is_free(port, host),
            f"port {port} of {host} is free",
            timeout_seconds=API_TIMEOUT_SECONDS,
            next_step=f"see what holds it: ss -ltnp sport = :{port}",
        )
        self._start("kube-apiserver", config.api_server_flags(self.endpoints, self.pki))
        self._wait("kube-apiserver", API_TIMEOUT_SECONDS, self.ready)

    def stop_api_server(self) -> None:
        """Stop the API server as a rollout would; its port is free afterwards."""
        self.supervisor.stop("kube-apiserver", term_seconds=API_STOP_SECONDS)

    def kill_api_server(self) -> None:
        """End the API server as a crash would."""
        self.supervisor.kill("kube-apiserver")

    def ready(self) -> bool:
        """Whether the API server answers /readyz with ok."""
        context = ssl.create_default_context(cafile=str(self.pki.certificate("ca")))
        context.load_cert_chain(self.pki.certificate("admin"), self.pki.key("admin"))
        host, port = self.endpoints.address, self.endpoints.api_port
        return probe.answers(
            http.client.HTTPSConnection(host, port, context=context, timeout=_REQUEST_TIMEOUT_SECONDS),
            "/readyz",
        )

    def _etcd_healthy(self) -> bool:
        port, timeout = self.endpoints.etcd_port, _REQUEST_TIMEOUT_SECONDS
        return probe.answers(http.client.HTTPConnection(config.LOOPBACK, port, timeout=timeout), "/health")

    def _settle(self, name: str, timeout_seconds: float, healthy: Callable[[], bool]) -> None:
        """Wait until a running process is healthy or has ended: a stopping process still runs for a while."""
        wait_until(
            lambda: not self.supervisor.running(name) or healthy(),
            f"{name} is ready, or has ended",
            timeout_seconds=timeout_seconds,
            log=self.supervisor.log(name),
            next_step="read the log's last lines, then take the cluster down",
        )

    def _start(self, name: str, flags: list[str]) -> None:
        self.supervisor.start(name, [str(programs.ensure([name])[name]), *flags])

    def _wait(self, name: str, timeout_seconds: float, healthy: Callable[[], bool]) -> None:
        def met() -> bool:
            self.supervisor.check(name)
            return healthy()

        wait_until(
            met,
            f"{name} is ready",
            timeout_seconds=timeout_seconds,
            log=self.supervisor.log(name),
            next_step="read the log's last lines, then take the cluster down",
        )

    def _make_certificates(self) -> None:
        for authority in ("ca", "front-proxy-ca"):
            self.pki.authority(authority)
        for name, identity in config.control_plane_identities(self.endpoints).items():
            self.pki.leaf(name, identity)
        self.pki.leaf("front-proxy", Identity(user="front-proxy"), authority="front-proxy-ca")
        self.pki.key_pair("service-account")


@contextmanager
def running(state_folder: Path) -> Iterator[ControlPlane]:
    """Yield a control plane for one test; stop it and delete its folder afterwards."""
    state = State(state_folder)
    with state.exclusive():
        state.claim("control-plane")
        try:
            yield up(state)
        finally:
            stop(state)
            state.remove()


def up(state: State, *, address: str = config.LOOPBACK, api_port: int | None = None) -> ControlPlane:
    """Make and start the control plane of a claimed state folder, or start again what stopped."""
    programs.ensure(PROGRAMS)
    if not _endpoints_file(state).exists():
        with step("certificates"):
            ControlPlane.create(state, address=address, api_port=api_port)
    made = ControlPlane.load(state)
    with step(f"etcd and API server on {made.endpoints.api_url}"):
        made.start()
    return made


def stop(state: State) -> None:
    """Stop both processes."""
    supervisor = Supervisor(state.folder)
    supervisor.stop("kube-apiserver", term_seconds=API_STOP_SECONDS)
    supervisor.stop("etcd")


def _endpoints_file(state: State) -> Path:
    return state.etc / "endpoints.json"


class Provider:
    """The provider `control-plane`: etcd and the API server only."""

    programs = PROGRAMS

    def up(self, state: State) -> None:
        """Start both."""
        up(state)

    def down(self, state: State) -> None:
        """Stop both and remove the folder."""
        stop(state)
        state.remove()

    def status(self, state: State) -> Iterator[str]:
        """Both processes, and whether the API server is ready."""
        made = ControlPlane.load(state)
        yield from made.supervisor.status()
        if not made.ready():
            raise HackError("the API server is not ready", log=made.supervisor.log("kube-apiserver"))
        yield f"ready: {made.endpoints.api_url}"

    def load(self, state: State, archive: Path) -> None:
        """Refuse: this cluster runs no pods."""
        raise HackError(f"{archive}: the control plane of {state.folder} has no node to load images into")

    def tag(self, state: State, image: str, name: str) -> None:
        """Refuse: this cluster runs no pods."""
        raise HackError(f"{image}: the control plane of {state.folder} has no node, and no image to name {name}")

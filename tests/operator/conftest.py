"""Fixtures of the operator's suite: a real API server for all, a namespace and an operator for each test."""

import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import kopf
import pytest
import pytest_asyncio

from dtq_operator.shared import Intervals
from hack.cluster import control_plane, kubectl
from hack.cluster.control_plane import ControlPlane
from tests.operator.running import QUICK, Running
from tests.operator.switchable_proxy import SwitchableProxy
from tests.operator.world import World
from tests.support.addresses import BrokerVhost, PostgresService, RabbitMQService
from tests.support.kube_api import KubeApi
from tests.support.kube_proxy import KubeProxy
from tests.support.system import System, opened

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Any]


# The first run on a machine builds etcd, the API server and kubectl.
BUILD_SECONDS = 1800


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    for item in here[:1]:
        item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane that the suite shares, with the definitions of `crds/`."""
    with control_plane.running(tmp_path_factory.mktemp("plane") / "state") as made:
        kubectl.run(made.kubeconfig, "apply", "--filename", str(ROOT / "crds"))
        kubectl.run(made.kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        with pytest.MonkeyPatch.context() as patch:
            use_kubeconfig(made.kubeconfig, patch)
            yield made


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def kube(plane: ControlPlane) -> AsyncIterator[KubeApi]:
    """A client of it."""
    async with KubeApi(plane.kubeconfig) as client:
        yield client


@pytest_asyncio.fixture(loop_scope="session")
async def world(plane: ControlPlane, kube: KubeApi, dsn: str, broker_vhost: BrokerVhost) -> World:
    """A fresh namespace, database and virtual host."""
    namespace = f"test-{secrets.token_hex(4)}"
    await kube.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    return World(kube=kube, kubeconfig=plane.kubeconfig, namespace=namespace, dsn=dsn, broker=broker_vhost)


@pytest_asyncio.fixture(loop_scope="session")
async def start(world: World) -> AsyncIterator[Start]:
    """A factory of operators in this process; each is stopped at the end and must not have ended before."""
    async with AsyncExitStack() as stack:

        async def begin(
            *, pace: Intervals = QUICK, kopf_settings: kopf.OperatorSettings | None = None, **settings: str
        ) -> Running:
            running = await stack.enter_async_context(
                Running(world.settings(**settings), pace=pace, kopf_settings=kopf_settings)
            )
            stack.callback(_must_run, running)
            return running

        yield begin


@pytest.fixture
def system(world: World, tmp_path: Path) -> Iterator[System]:
    """The world's database, broker and API server for real processes: operators, APIs, workers."""
    with opened(tmp_path, world.dsn, world.broker, QUEUES="default", **world.environ()) as system:
        yield system


@pytest_asyncio.fixture(loop_scope="session")
async def postgres_proxy(postgres_server: PostgresService) -> AsyncIterator[SwitchableProxy]:
    """A proxy in front of Postgres, for `start(**world.through(postgres_proxy, rabbitmq_proxy))`."""
    address = urlsplit(postgres_server.admin_dsn)
    assert address.hostname
    async with SwitchableProxy(address.hostname, address.port or 5432) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def rabbitmq_proxy(rabbitmq_server: RabbitMQService) -> AsyncIterator[SwitchableProxy]:
    """A proxy in front of RabbitMQ."""
    async with SwitchableProxy(rabbitmq_server.host, rabbitmq_server.port) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def proxy(kube: KubeApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeProxy]:
    """A proxy in front of the API server; every operator that starts from now on uses it."""
    async with KubeProxy(kube, tmp_path) as made:
        use_kubeconfig(made.kubeconfig, monkeypatch)
        yield made


def use_kubeconfig(kubeconfig: Path, patch: pytest.MonkeyPatch) -> None:
    """Have operators started from now on use this file; the client reads the variable only when it is imported."""
    patch.setenv("KUBECONFIG", str(kubeconfig))
    patch.setattr("kubernetes.aio.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(kubeconfig))


def _must_run(running: Running) -> None:
    assert not running.has_ended, "the operator ended by itself"

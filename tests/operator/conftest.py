"""Owns the fixtures of the operator's suite: a real API server for all, a namespace and an operator for each."""

import os
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dtq_operator.pace import Pace
from hack.cluster import control_plane, kubectl
from hack.cluster.control_plane import ControlPlane
from tests.operator.running import QUICK, Running
from tests.operator.world import World
from tests.support.addresses import BrokerVhost
from tests.support.kube_api import KubeApi

ROOT = Path(__file__).resolve().parents[2]
Start = Callable[..., Any]


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """The control plane that the suite shares, with the definitions of `crds/`."""
    with control_plane.running(tmp_path_factory.mktemp("plane") / "state") as made:
        kubectl.run(made.kubeconfig, "apply", "--filename", str(ROOT / "crds"))
        kubectl.run(made.kubeconfig, "wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        before = os.environ.get("KUBECONFIG")
        os.environ["KUBECONFIG"] = str(made.kubeconfig)
        yield made
        os.environ.pop("KUBECONFIG")
        if before is not None:
            os.environ["KUBECONFIG"] = before


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

        async def begin(*, pace: Pace = QUICK, **settings: str) -> Running:
            running = await stack.enter_async_context(Running(world.settings(**settings), pace=pace))
            stack.callback(_must_run, running)
            return running

        yield begin


def _must_run(running: Running) -> None:
    assert not running.has_ended, "the operator ended by itself"

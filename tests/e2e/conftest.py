"""Owns the cluster of the end-to-end suite: the one that is up, else one of its own, taken down afterwards."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.cluster.state import State, default_folder
from tests.e2e.kube import Kube

ROOT = Path(__file__).resolve().parents[2]
LOGS = ROOT / ".e2e"
# Cold, it builds Kubernetes.
UP_SECONDS = 1800
ADDONS_SECONDS = 1200
DOWN_SECONDS = 120


def cluster(*arguments: str, seconds: float) -> None:
    """One command of `python -m hack.cluster`; its progress is the run's."""
    subprocess.run([sys.executable, "-m", "hack.cluster", *arguments], cwd=ROOT, check=True, timeout=seconds)


@pytest.fixture(scope="session")
def kube() -> Iterator[Kube]:
    """A cluster with a node."""
    state = State(Path(os.environ.get("DTQ_CLUSTER_STATE") or default_folder()))
    was_up = state.provider() is not None
    cluster("up", seconds=UP_SECONDS)
    yield Kube(state.kubeconfig, LOGS)
    if not was_up:
        cluster("down", seconds=DOWN_SECONDS)


@pytest.fixture(scope="session")
def addons(kube: Kube) -> Kube:
    """The cluster, with KEDA and Prometheus working in it."""
    cluster("addons", "keda", "prometheus", seconds=ADDONS_SECONDS)
    return kube

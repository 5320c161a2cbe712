"""The cluster of the end-to-end suite: the running one, else one of its own that is removed afterwards."""

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from hack.cluster.state import State, default_state
from hack.images.recipes import recipes
from tests.e2e.kube import Kube
from tests.e2e.recorder import recording
from tests.e2e.release import ROOT, Release
from tests.e2e.world import Step, World, measured

LOGS = ROOT / ".e2e"
# Cold, it builds Kubernetes.
UP_SECONDS = 1800
ADDONS_SECONDS = 1200
IMAGES_SECONDS = 1800
DOWN_SECONDS = 120


def cluster(*arguments: str, seconds: float) -> None:
    """One command of `python -m hack.cluster`; its progress is the run's."""
    subprocess.run([sys.executable, "-m", "hack.cluster", *arguments], cwd=ROOT, check=True, timeout=seconds)


@pytest.fixture(scope="session")
def steps() -> list[Step]:
    """How long each step took."""
    return []


@pytest.fixture(scope="session")
def kube(steps: list[Step]) -> Iterator[Kube]:
    """A cluster with a node."""
    state = State(default_state())
    was_up = state.provider() is not None
    with measured(steps, "make cluster-up, when it was up already" if was_up else "make cluster-up"):
        cluster("up", seconds=UP_SECONDS)
    yield Kube(state.kubeconfig, LOGS)
    if not was_up:
        cluster("down", seconds=DOWN_SECONDS)


@pytest.fixture(scope="session")
def addons(kube: Kube, steps: list[Step]) -> Kube:
    """The cluster, with KEDA and Prometheus working in it."""
    with measured(steps, "make cluster-addons"):
        cluster("addons", "keda", "prometheus", seconds=ADDONS_SECONDS)
    return kube


@pytest.fixture(scope="session")
def images(kube: Kube, steps: list[Step]) -> dict[str, str]:
    """The names of the images of this checkout, built and in the cluster."""
    kube.logs.mkdir(exist_ok=True)
    with measured(steps, "make cluster-images: built and loaded"):
        subprocess.run([sys.executable, "-m", "hack.images", "load"], cwd=ROOT, check=True, timeout=IMAGES_SECONDS)
    return {name: recipe.reference for name, recipe in recipes().items()}


@pytest.fixture(scope="session")
def world(addons: Kube, images: dict[str, str], steps: list[Step]) -> Iterator[World]:
    """What the steps of the mission share."""
    folder = LOGS / "history"
    shutil.rmtree(folder, ignore_errors=True)
    with recording(folder) as recorder:
        release = Release(addons, images=images, recorder_url=recorder.url)
        yield World(kube=addons, release=release, recorder=recorder, folder=folder, started_at=time.time(), steps=steps)

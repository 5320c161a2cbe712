"""Watches a Deployment with kubectl, and records each change with its time."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby

from hack.cluster.native import programs
from tests.e2e.kube import Kube

_STOP_SECONDS = 10.0
_SHOWN = "{.spec.replicas} {.status.readyReplicas}{'\\n'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicas:
    """One change: when, what was wanted, what was ready."""

    at: float
    wanted: int
    ready: int


@dataclass(slots=True)
class Watch:
    """Every change so far."""

    seen: list[Replicas] = field(default_factory=list)

    def now(self) -> Replicas:
        """The last of them."""
        return self.seen[-1] if self.seen else Replicas(at=time.time(), wanted=-1, ready=-1)

    @property
    def most_wanted(self) -> int:
        """The most replicas that were wanted at a time."""
        return max(change.wanted for change in self.seen)

    @property
    def turns(self) -> list[int]:
        """Every number of replicas that was wanted, in order."""
        return [number for number, _ in groupby(change.wanted for change in self.seen)]

    @property
    def most_ready(self) -> int:
        """The most replicas that were ready at a time."""
        return max(change.ready for change in self.seen)


@contextmanager
def replicas(kube: Kube, namespace: str, deployment: str) -> Iterator[Watch]:
    """Watch a Deployment's replicas."""
    kubectl = programs.ensure(["kubectl"])["kubectl"]
    asked = ("get", "deployment", deployment, "-n", namespace, "--watch", "-o", f"jsonpath={_SHOWN}")
    watch = Watch()
    process = subprocess.Popen(
        [str(kubectl), f"--kubeconfig={kube.kubeconfig}", *asked], stdout=subprocess.PIPE, text=True
    )

    def read() -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                wanted, _, ready = line.strip().partition(" ")
                watch.seen.append(Replicas(at=time.time(), wanted=int(wanted), ready=int(ready or 0)))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield watch
    finally:
        process.terminate()
        process.wait(timeout=_STOP_SECONDS)
        reader.join(timeout=_STOP_SECONDS)

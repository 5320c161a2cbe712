"""Fixtures of the system suite: a database, a broker, and what a test needs to start processes on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.addresses import BrokerVhost
from tests.support.system import System, opened


@pytest.fixture
def system(tmp_path: Path, dsn: str, broker_vhost: BrokerVhost) -> Iterator[System]:
    """A system on the shared servers, without anything declared."""
    with opened(tmp_path, dsn, broker_vhost) as system:
        yield system


@pytest.fixture
def declared(system: System) -> System:
    """A system on the shared servers with its queues and the sample types declared."""
    return declare(system)


def declare(system: System) -> System:
    """Declare the queues and the sample types."""
    system.run("apply", "-f", "-", stdin=MANIFESTS)
    return system


MANIFESTS = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: high}, {name: default}]
  retry: {delaysSeconds: [1, 3600]}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.note.v1}
spec: {maxAttempts: 5, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.fail.v1}
spec: {maxAttempts: 5, backoff: {delaysSeconds: [3600]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.poison.v1}
spec: {maxAttempts: 10, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.stubborn.v1}
spec: {maxAttempts: 2, timeoutSeconds: 600}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.hungry.v1}
spec: {maxAttempts: 10, timeoutSeconds: 600, backoff: {delaysSeconds: [1]}}
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: sample.hungry-child.v1}
spec: {maxAttempts: 1}
"""

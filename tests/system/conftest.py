"""Fixtures of the system suite: a database, a broker, and what a test needs to start processes on them."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.system import REPOSITORY, System


@pytest.fixture
def handler_log(tmp_path: Path) -> Path:
    return tmp_path / "runs.jsonl"


@pytest.fixture
def system(tmp_path: Path, handler_log: Path, dsn: str, broker_vhost: Any) -> Iterator[System]:
    environ = dict(os.environ) | {
        "DB_DSN": dsn,
        "RMQ_USER": broker_vhost.user,
        "RMQ_PASS": broker_vhost.password,
        "RMQ_HOST": broker_vhost.host,
        "RMQ_PORT": str(broker_vhost.port),
        "RMQ_VHOST": broker_vhost.vhost,
        "QUEUES": "high,default",
        "WORKER_HANDLERS": "tests.support.handlers",
        "HANDLER_LOG": str(handler_log),
        "PYTHONPATH": str(REPOSITORY),
        "WORKER_DRAIN": "5s",
    }
    with ExitStack() as stack:
        yield System(folder=tmp_path, environ=environ, handler_log=handler_log, stack=stack)


@pytest.fixture
def declared(system: System) -> System:
    """A system with its queues and the sample types declared."""
    vhost = system.environ["RMQ_VHOST"]
    system.run("apply", "-f", "-", stdin=MANIFESTS.replace("VHOST", json.dumps(vhost)))
    return system


MANIFESTS = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  vhost: VHOST
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
"""

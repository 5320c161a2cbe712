"""What an installation brings along is made when it is absent, and never touched again."""

import asyncio
import subprocess
from pathlib import Path

import pytest
import yaml

from dtq.domain.errors import Rejected
from dtq_operator.bootstrap import read
from hack.cluster.native import programs
from tests.operator.conftest import Start
from tests.operator.world import World


def _file(folder: Path, *manifests: object) -> str:
    file = folder / "manifests.yaml"
    file.write_text(yaml.safe_dump_all(manifests))
    return str(file)


async def test_what_is_absent_is_made_and_becomes_ready(world: World, start: Start, tmp_path: Path) -> None:
    queue_set, task_type = world.queue_set(), world.task_type()
    await start(DTQ_BOOTSTRAP_FILE=_file(tmp_path, task_type, queue_set))
    await world.until(queue_set, "Ready", "True")
    await world.until(task_type, "Ready", "True")


async def test_what_is_there_is_left_as_it_is(world: World, start: Start, tmp_path: Path) -> None:
    await world.create(world.queue_set(), world.task_type(maxAttempts=7))
    await start(DTQ_BOOTSTRAP_FILE=_file(tmp_path, world.queue_set(), world.task_type(maxAttempts=2)))
    await world.until(world.task_type(), "Ready", "True")
    found = await world.get(world.task_type())
    assert found is not None
    assert found["spec"]["maxAttempts"] == 7


async def test_kubectl_apply_over_what_was_made_warns_of_nothing(world: World, start: Start, tmp_path: Path) -> None:
    queue_set, task_type = world.queue_set(), world.task_type()
    await start(DTQ_BOOTSTRAP_FILE=_file(tmp_path, queue_set, task_type))
    await world.until(task_type, "Ready", "True")
    file = tmp_path / "edited.yaml"
    file.write_text(yaml.safe_dump_all([queue_set, world.task_type(maxAttempts=7)]))
    kubectl = programs.ensure(["kubectl"])["kubectl"]
    command = [str(part) for part in (kubectl, "--kubeconfig", world.kubeconfig, "apply", "-f", file)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[1] == "tasktype.dtq.dev/email.send.v1 configured"
    found = await world.get(task_type)
    assert found is not None
    assert found["spec"]["maxAttempts"] == 7


async def test_one_that_is_refused_keeps_nobody_from_the_rest(world: World, start: Start, tmp_path: Path) -> None:
    elsewhere = world.queue_set("other", namespace="other")
    elsewhere["metadata"] |= {"labels": {"not a label": "x"}}
    good = world.queue_set("quite-good")
    await start(DTQ_BOOTSTRAP_FILE=_file(tmp_path, elsewhere, good))
    await world.until(good, "Ready", "True")


def test_a_manifest_with_mistakes_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="nonsense"):
        read(Path(_file(tmp_path, {"apiVersion": "dtq.dev/v1alpha1", "kind": "TaskType", "nonsense": 1})))
    with pytest.raises(Rejected, match="DTQ_BOOTSTRAP_FILE"):
        read(tmp_path / "absent")

"""Every answer of the Kubernetes API to every call of the operator: none ends it, and it recovers without a restart.

One operator meets all answers to one call, one after the other; where a condition can be written, it tells.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import yaml

from dtq.runtime.loops import wait
from dtq_operator import kube, watch
from dtq_operator.watch import configure
from tests.operator.conftest import Start
from tests.operator.running import QUICK, Running
from tests.operator.scenarios import DEPLOYMENT, scaled
from tests.operator.world import World
from tests.support.kube_api import Object
from tests.support.kube_proxy import Fault, KubeProxy
from tests.support.waiting import CHANGE_SECONDS, eventually

ANSWERS: Final[dict[str, dict[str, Any]]] = {
    **{str(status): {"status": status} for status in (400, 401, 403, 404, 409, 410, 413, 422, 429, 500, 503)},
    "time-out": {"delay_seconds": 6.0},
    "cut": {"cut": "before"},
    "not JSON": {"status": 200, "text": "<html>It works!</html>"},
    "not an object": {"status": 200, "text": "[1, 2]"},
    "an empty object": {"status": 200, "text": "{}"},
}
TIMEOUT_SECONDS: Final = 3.0
"""Longest request of the operator in this suite, in seconds."""
SWEEP_SECONDS: Final = 40.0
"""A sweep ends although calls fail, in seconds."""
STRUCK_SECONDS: Final = 60.0
PROVOKE_SECONDS: Final = 1.0
"""How long a provocation has to show, in seconds."""


@dataclass(kw_only=True)
class Table:
    """One call, and everything that may be answered to it."""

    world: World
    proxy: KubeProxy
    start: Start
    folder: Path
    running: Running | None = None
    edits: int = 1
    recovered: Callable[[], Awaitable[object]] = field(default_factory=lambda: _nothing)
    """Waits for what else must work again."""

    async def begin(self, **settings: str) -> Running:
        """Start the operator with short time-outs."""
        kopf_settings = configure()
        kopf_settings.networking.request_timeout = TIMEOUT_SECONDS
        kopf_settings.networking.error_backoffs = (0.1, 0.1)
        often = {"DTQ_RESYNC_SECONDS": "500ms"}
        running: Running = await self.start(pace=PACE, kopf_settings=kopf_settings, **often | settings)
        self.running = running
        return running

    async def answers(self, match: str, provoke: Callable[[], Awaitable[object]], **expected: str) -> None:
        """Have the call answered in every way; after each, everything works again.

        Args:
            match: the call.
            provoke: has the operator make it.
            expected: verb and resource that the condition ScalingActive names, if the call is one of scaling's.
        """
        assert self.running is not None
        for name, answer in ANSWERS.items():
            fault = self.proxy.strike(match, **answer)
            await _struck(fault, 1, f"{name} to {match}", provoke)
            if expected and not (name == "404" and expected["verb"] == "list"):  # it is not installed, then
                await self.told(name, **expected)
            assert not self.running.has_ended, f"{name} to {match} ended the operator"
            self.proxy.clear()
            await self.works_again(name)

    async def told(self, name: str, *, verb: str, resource: str) -> None:
        """Wait for the condition that names the call."""
        obj = scaled(self.world)
        last: list[Object] = []

        async def says() -> bool:
            found = await self.world.get(obj)
            last[:] = (
                [condition for condition in found["status"]["conditions"] if condition["type"] == "ScalingActive"]
                if found
                else []
            )
            return bool(last) and last[0]["status"] == "False" and f"{verb} {resource}" in last[0]["message"]

        await eventually(says, f"{name}: ScalingActive=False names {verb} {resource}", SWEEP_SECONDS)
        assert last[0]["reason"] == "ScalingFailed"
        if name.isdigit():
            assert name in last[0]["message"]

    async def works_again(self, name: str) -> None:
        """Wait until an edit is applied and scaling works."""
        assert self.running is not None
        swept = self.running.metric("dq_operator_last_sweep_timestamp_seconds")
        self.edits += 1
        attempts = 2 + self.edits % 15
        await self.world.patch(self.world.task_type(), {"spec": {"maxAttempts": attempts}})
        await self.world.until(self.world.task_type(), "Ready", "True", seconds=40.0)
        row = await self.world.row()
        assert row is not None
        assert row["default_max_attempts"] == attempts, name
        await self.world.until(scaled(self.world), "ScalingActive", "True", "OperatorScaling", seconds=40.0)

        async def sweeps() -> bool:
            assert self.running is not None
            return self.running.metric("dq_operator_last_sweep_timestamp_seconds") > swept

        await eventually(sweeps, f"{name}: a sweep comes to its end", SWEEP_SECONDS)
        await self.recovered()

    async def declared(self) -> None:
        """A Deployment, a set that scales it and a type, all well."""
        await self.world.create_deployment(DEPLOYMENT)
        await self.world.create_ready(scaled(self.world), self.world.task_type())
        await self.world.until(scaled(self.world), "ScalingActive", "True", "OperatorScaling")


PACE = replace(QUICK, scaling_seconds=0.5, serving_seconds=2.0)
pytestmark = pytest.mark.timeout(900)


@pytest_asyncio.fixture(loop_scope="session")
async def table(
    world: World, proxy: KubeProxy, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Table]:
    """A table on a world of its own."""
    monkeypatch.setattr(kube, "REQUEST_SECONDS", TIMEOUT_SECONDS)
    # Each life of kopf counts as a long one: the pauses between them do not grow from answer to answer.
    monkeypatch.setattr(watch, "LASTING_SECONDS", 0.0)
    yield Table(world=world, proxy=proxy, start=start, folder=tmp_path)


async def _nothing() -> None:
    """Do nothing: the operator repeats the call on its own."""


async def test_the_sweeps_list(table: Table) -> None:
    await table.begin()
    await table.declared()
    await table.answers(r"GET .*/tasktypes\?limit", _nothing)


async def test_reading_objects_that_the_watch_has_not_told_of(table: Table) -> None:
    await table.begin()
    await table.declared()

    async def missed() -> None:
        """Let the operator forget an object: the next sweep reads it."""
        assert table.running is not None
        store = table.running.operator.store
        key = next(key for key, _ in store.of_kind("TaskType"))
        store._objects.pop(key)

    await table.answers(r"GET .*/tasktypes/email", missed)


async def test_the_watchs_list(table: Table) -> None:
    await table.begin()
    await table.declared()

    async def expired() -> None:
        table.proxy.say_to_watches(
            b'{"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410}}'
        )

    await table.answers(r"GET .*/tasktypes(\?(?!.*(watch|limit)).*)?$", expired)


async def test_the_watch(table: Table) -> None:
    await table.begin()
    await table.declared()

    async def cut() -> None:
        table.proxy.cut_watches()

    await table.answers(r"GET .*/tasktypes\?.*watch=true", cut)


async def test_the_discovery_of_resources_at_the_start(table: Table) -> None:
    await table.begin()
    await table.declared()
    assert table.running is not None
    for name, answer in ANSWERS.items():
        await table.running.end()
        fault = table.proxy.strike(r"GET /apis/dtq.dev/v1alpha1(\?.*)?$", **answer)
        await table.begin()
        await _struck(fault, 1, name)
        assert not table.running.has_ended, name
        table.proxy.clear()
        await table.works_again(name)


async def test_writing_a_status(table: Table) -> None:
    await table.begin()
    await table.declared()
    attempts = 2

    async def edited() -> None:
        nonlocal attempts
        attempts = attempts % 18 + 2
        await table.world.patch(table.world.task_type(), {"spec": {"timeoutSeconds": attempts}})

    await table.answers(r"PATCH .*/tasktypes/.*/status", edited)


async def test_writing_a_finalizer(table: Table) -> None:
    await table.begin()
    await table.declared()
    turn = 0

    async def edited() -> None:
        nonlocal turn
        turn += 1
        policy = "Delete" if turn % 2 else "Deactivate"
        await table.world.patch(table.world.task_type(), {"spec": {"deletionPolicy": policy}})

    await table.answers(r"PATCH .*/tasktypes/[^/]*$", edited)


async def test_bringing_an_object_along(table: Table) -> None:
    declared = False
    for number, (name, answer) in enumerate(ANSWERS.items()):
        brought = table.world.task_type(f"brought.t{number}")
        file = table.folder / f"manifests{number}.yaml"
        file.write_text(yaml.safe_dump(brought))
        fault = table.proxy.strike(r"POST .*/tasktypes", **answer)
        running = await table.begin(DTQ_BOOTSTRAP_FILE=str(file))
        if not declared:
            declared = True
            table.proxy.clear()
            await table.world.create_deployment(DEPLOYMENT)
            await table.world.create(scaled(table.world))
            fault = table.proxy.strike(r"POST .*/tasktypes", **answer)
        await _struck(fault, 2, name)
        assert not running.has_ended, name
        table.proxy.clear()
        await table.world.until(brought, "Ready", "True", seconds=40.0)
        await running.end()


@pytest.mark.parametrize("call", ["POST .*/events", "PATCH .*/events"])
async def test_recording_an_event(table: Table, call: str) -> None:
    await table.begin()
    await table.declared()
    assert table.running is not None
    elsewhere = table.world.task_type("email.lost", queue="elsewhere")
    await table.world.create(elsewhere)
    await table.world.until_event(elsewhere, "QueueNotDeclared")
    number = 0

    async def a_warning() -> None:
        """What has been told before is told again by a PATCH, something new by a POST."""
        nonlocal number
        assert table.running is not None
        number += 1
        if call.startswith("POST"):
            await table.world.patch(elsewhere, {"spec": {"queue": f"elsewhere-{number}"}})
        table.running.operator.events._recorded.clear()
        for key, _ in table.running.operator.store.of_kind("TaskType"):
            table.running.operator.queue.add(key)

    async def is_recorded() -> bool:
        events = await table.world.events(elsewhere)
        return not call.startswith("POST") or any(f"elsewhere-{number}'" in message for _, _, message in events)

    table.recovered = lambda: eventually(is_recorded, "the warning is recorded after all", CHANGE_SECONDS)
    await table.answers(call, a_warning)


@pytest.mark.parametrize(
    ("match", "verb", "resource"),
    [
        (r"GET .*/deployments/mailer/scale", "get", "deployments/scale"),
        (r"PATCH .*/deployments/mailer/scale", "patch", "deployments/scale"),
        (r"GET .*/horizontalpodautoscalers", "list", "horizontalpodautoscalers"),
        (r"GET .*/scaledobjects", "list", "scaledobjects"),
    ],
    ids=["get scale", "patch scale", "list HPAs", "list ScaledObjects"],
)
async def test_scaling(table: Table, match: str, verb: str, resource: str) -> None:
    await table.begin()
    await table.declared()
    replicas = 1

    async def another_number() -> None:
        """Set the replicas as another client would: the operator sets them back."""
        nonlocal replicas
        replicas = replicas % 5 + 2
        path = f"/apis/apps/v1/namespaces/{table.world.namespace}/deployments/{DEPLOYMENT}"
        await table.world.kube.call("PATCH", path, {"spec": {"replicas": replicas}})

    await table.answers(match, another_number, verb=verb, resource=resource)


async def _struck(fault: Fault, times: int, what: str, provoke: Callable[[], Awaitable[object]] = _nothing) -> None:
    """Wait until requests have been struck; provoke them again and again: a watch may just not be open."""

    async def often_enough() -> bool:
        if fault.struck < times:
            await provoke()
        return await wait(fault.hit, PROVOKE_SECONDS) and fault.struck >= times

    await eventually(often_enough, f"{what} is answered {times} times", STRUCK_SECONDS)

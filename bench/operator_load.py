"""What the operator costs the Kubernetes API, by the API server's own metrics: `python -m bench.operator_load -h`.

Run it against a cluster of its own: it counts every request about our objects.
"""

import argparse
import asyncio
import os
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import asyncpg
import yaml

from hack.cluster import kubectl

NAMESPACE: Final = "measure"
"""Of the Kubernetes namespace, the queue set, and its prefix: the cluster's own are left alone."""
TYPES: Final = 2000
CHUNK: Final = 250
"""Objects that one kubectl creates: it has a bound."""
STEADY_SECONDS: Final = 600.0
READY_SECONDS: Final = 600.0
DRIFT_SECONDS: Final = 90.0
RESOURCES: Final = ("tasktypes", "queuesets", "events")
WRITES: Final = ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION")
_LINE: Final = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)


class Cluster:
    """One cluster, and how often it was asked about our objects."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self.own: Counter[str] = Counter()

    async def kubectl(self, *arguments: str) -> str:
        """What kubectl prints."""
        return await asyncio.to_thread(kubectl.run, self._kubeconfig, *arguments)

    async def requests(self) -> Counter[str]:
        """Requests so far by verb and resource, without this program's own lists."""
        return requests_of(await self.kubectl("get", "--raw", "/metrics")) - self.own

    async def ready(self) -> int:
        """How many task types are ready."""
        self.own["LIST tasktypes"] += 1
        path = f"/apis/dtq.dev/v1alpha1/namespaces/{NAMESPACE}/tasktypes?resourceVersion=0"
        listed = yaml.load(await self.kubectl("get", "--raw", path), Loader=yaml.CSafeLoader)
        return sum(_is_ready(task_type) for task_type in listed["items"])


def requests_of(metrics: str) -> Counter[str]:
    """Return requests by verb and resource, as the API server's exposition has them."""
    counted: Counter[str] = Counter()
    for match in _LINE.finditer(metrics):
        labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
        if labels.get("resource") in RESOURCES:
            verb = f"{labels['verb']} {labels['resource']}"
            counted[f"{verb}/{labels['subresource']}" if labels.get("subresource") else verb] += int(
                float(match["value"])
            )
    return counted


def _is_ready(obj: dict[str, Any]) -> bool:
    found = obj.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in found)


def _manifests(types: int, folder: Path) -> list[Path]:
    spec = {
        "queueSetRef": {"name": NAMESPACE},
        "maxAttempts": 5,
        "payloadSchema": {"type": "object", "properties": {"to": {"type": "string"}}},
    }
    documents: list[dict[str, Any]] = [
        {
            "apiVersion": "dtq.dev/v1alpha1",
            "kind": "TaskType",
            "metadata": {"name": f"measure.t{number}", "namespace": NAMESPACE},
            "spec": spec,
        }
        for number in range(types)
    ]
    paths = []
    for first in range(0, types, CHUNK):
        paths.append(folder / f"types-{first}.yaml")
        paths[-1].write_text(yaml.dump_all(documents[first : first + CHUNK], Dumper=yaml.CSafeDumper))
    return paths


async def _apply(cluster: Cluster, types: int) -> None:
    folder = tempfile.TemporaryDirectory()
    paths = _manifests(types, Path(folder.name))
    before, began = await cluster.requests(), time.monotonic()
    creating = asyncio.create_task(_create(cluster, paths))
    while (ready := await cluster.ready()) < types:
        if time.monotonic() - began > READY_SECONDS:
            raise SystemExit(f"only {ready} of {types} are ready after {READY_SECONDS:g} s")
        print(f"  {time.monotonic() - began:5.0f} s: {ready} of {types} ready", flush=True)
        await asyncio.sleep(1.0)
    took = time.monotonic() - began
    await creating
    folder.cleanup()
    asked = await cluster.requests() - before
    total = sum(count for verb, count in asked.items() if "tasktypes" in verb)
    print(f"{types} task types: created and all ready after {took:.1f} s (kubectl create: {creating.result():.1f} s)")
    print(f"requests per object: {total / types:.2f}, the creation included; {dict(asked)}")


async def _create(cluster: Cluster, paths: list[Path]) -> float:
    began = time.monotonic()
    for path in paths:
        await cluster.kubectl("create", "-f", str(path), "--validate=false")
    return time.monotonic() - began


async def _steady(cluster: Cluster, seconds: float) -> None:
    await asyncio.sleep(10.0)  # what the operator still had to do after the last status
    before = await cluster.requests()
    await asyncio.sleep(seconds)
    asked = await cluster.requests() - before
    writes = {verb: count for verb, count in asked.items() if verb.split()[0] in WRITES}
    print(f"steady state, {seconds:g} s: {sum(writes.values())} writes {writes or ''}; reads {dict(asked)}")


async def _drift(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("UPDATE task_type SET timeout_seconds = 1 WHERE type = 'measure.t0'")
        began = time.monotonic()
        while await connection.fetchval("SELECT timeout_seconds FROM task_type WHERE type = 'measure.t0'") == 1:
            if time.monotonic() - began > DRIFT_SECONDS:
                raise SystemExit(f"drift was not repaired within {DRIFT_SECONDS:g} s")
            await asyncio.sleep(0.5)
        print(f"drift: a row edited by hand was repaired after {time.monotonic() - began:.1f} s")
    finally:
        await connection.close()


async def _measure(kubeconfig: Path, types: int, steady_seconds: float, dsn: str) -> None:
    cluster = Cluster(kubeconfig)
    await cluster.kubectl("create", "namespace", NAMESPACE)
    queue_set = {"queues": [{"name": "default"}], "namespace": NAMESPACE}
    manifest = {
        "apiVersion": "dtq.dev/v1alpha1", "kind": "QueueSet",
        "metadata": {"name": NAMESPACE, "namespace": NAMESPACE}, "spec": queue_set,
    }  # fmt: skip
    await asyncio.to_thread(kubectl.run, kubeconfig, "apply", "-f", "-", manifest=manifest)
    await cluster.kubectl("wait", "--for=condition=Ready", "qs", "--all", "-n", NAMESPACE, "--timeout=60s")
    await _apply(cluster, types)
    await _drift(dsn)
    await _steady(cluster, steady_seconds)


def main() -> int:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.operator_load",
        description="Measure a running operator: many task types at once, drift, and a steady state. DB_DSN is needed.",
    )
    parser.add_argument("--kubeconfig", type=Path, required=True, help="of a cluster without other users")
    parser.add_argument("--types", type=int, default=TYPES, help="how many (default: %(default)s)")
    parser.add_argument("--steady-seconds", type=float, default=STEADY_SECONDS, help="default: %(default)s")
    given = parser.parse_args()
    dsn = os.environ.get("DB_DSN")
    if not dsn:
        print("DB_DSN is not set: `. .dtq/env` sets it for the local stack", file=sys.stderr)
        return 2
    asyncio.run(_measure(given.kubeconfig.absolute(), given.types, given.steady_seconds, dsn))
    return 0


if __name__ == "__main__":
    sys.exit(main())

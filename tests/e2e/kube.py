"""How the end-to-end suite talks to a cluster: kubectl for everything, each call with a time limit.

Uses only the kubeconfig that it is given: the environment's kubeconfig belongs to another cluster.
"""

import json
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hack.cluster import kubectl
from hack.cluster.addons import monitoring
from hack.lib.errors import HackError
from hack.lib.waiting import wait_until

Object = dict[str, Any]
_PROMETHEUS = f"/api/v1/namespaces/{monitoring.NAMESPACE}/services/{monitoring.SERVICE}/proxy/api/v1"


class Kube:
    """One cluster, as its administrator."""

    def __init__(self, kubeconfig: Path, logs: Path) -> None:
        self.kubeconfig = kubeconfig
        self.logs = logs

    def run(self, *arguments: str, manifest: object = None, timeout_seconds: int = 60) -> str:
        """What kubectl prints."""
        return kubectl.run(self.kubeconfig, *arguments, manifest=manifest, timeout_seconds=timeout_seconds)

    def apply(self, *objects: Object) -> None:
        """Apply objects as kubectl does."""
        self.run("apply", "-f", "-", manifest={"apiVersion": "v1", "kind": "List", "items": list(objects)})

    def get(self, *arguments: str) -> Any:
        """What `kubectl get` says, as JSON."""
        return json.loads(self.run("get", *arguments, "-o", "json"))

    def find(self, *arguments: str) -> Any:
        """What `kubectl get` says, or None when there is no such object."""
        found = self.run("get", *arguments, "--ignore-not-found", "-o", "json")
        return json.loads(found) if found.strip() else None

    def items(self, *arguments: str) -> list[Object]:
        """The objects of a list."""
        return list(self.get(*arguments)["items"])

    def wait(self, namespace: str, condition: str, *resources: str, seconds: int = 180) -> None:
        """Wait for a condition by `kubectl wait`; when it does not come, keep what the namespace says of itself."""
        asked = ("wait", "-n", namespace, f"--for={condition}", f"--timeout={seconds}s", *resources)
        try:
            self.run(*asked, timeout_seconds=seconds)
        except HackError as error:
            raise HackError(str(error), log=self.describe(namespace)) from error

    def until(self, what: str, met: Callable[[], bool], *, namespace: str, seconds: float) -> None:
        """Wait until `met` is true; when it is not in time, keep what the namespace says of itself."""
        try:
            wait_until(met, what, timeout_seconds=seconds)
        except HackError as error:
            raise HackError(str(error), log=self.describe(namespace)) from error

    def describe(self, namespace: str) -> Path:
        """Write pods, their logs and the events of a namespace to a file; return the file."""
        self.logs.mkdir(parents=True, exist_ok=True)
        file = self.logs / f"{namespace}.log"
        parts = [self.run("get", "all,tt,qs,scaledobject", "-n", namespace, "-o", "wide", "--ignore-not-found")]
        parts.append(self.run("describe", "pods", "-n", namespace))
        for pod in self.items("pods", "-n", namespace):
            parts += [self._said(namespace, pod["metadata"]["name"], *more) for more in ((), ("--previous",))]
        parts.append(self.run("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"))
        file.write_text("\n\n".join(parts))
        return file

    def _said(self, namespace: str, pod: str, *more: str) -> str:
        try:
            return f"==> {pod} {' '.join(more)}\n" + self.run(
                "logs", "-n", namespace, pod, "--all-containers", "--tail=200", *more
            )
        except HackError as error:
            return f"==> {pod}: {error}"

    def prometheus(self, path: str, **query: str) -> Any:
        """The data of an answer of Prometheus' HTTP interface, through the API server's proxy."""
        asked = f"{_PROMETHEUS}/{path}?{urllib.parse.urlencode(query)}"
        answer = json.loads(self.run("get", "--raw", asked))
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Object]:
        """The series that a PromQL expression gives now."""
        return list(self.prometheus("query", query=expression)["result"])

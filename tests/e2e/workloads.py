"""How the suite inspects, ends and waits for the pods of the release."""

from tests.e2e.kube import Kube, Object
from tests.e2e.release import NAME, NAMESPACE

PARTS = ("api", "operator", "worker-default")
"""What is always there: each has pods, and a Deployment."""
READY_SECONDS = 180


def pods(kube: Kube, component: str) -> list[Object]:
    """The running pods of a component."""
    found = kube.items("pods", "-n", NAMESPACE, "-l", f"app.kubernetes.io/component={component}")
    return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]


def kill(kube: Kube, component: str) -> str:
    """End a pod of a component as a lost node would: nothing of it is told to drain."""
    name = str(pods(kube, component)[0]["metadata"]["name"])
    kube.run("delete", "pod", name, "-n", NAMESPACE, "--grace-period=0", "--force", timeout_seconds=60)
    return name


def restarts(kube: Kube, component: str = "") -> dict[str, int]:
    """How often the containers of each pod, of one component or of the release, were started again."""
    selector = f"app.kubernetes.io/instance={NAME}" + (f",app.kubernetes.io/component={component}" if component else "")
    found = kube.items("pods", "-n", NAMESPACE, "-l", selector)
    return {
        pod["metadata"]["name"]: sum(
            container["restartCount"] for container in pod["status"].get("containerStatuses", ())
        )
        for pod in found
    }


def names(kube: Kube) -> set[str]:
    """The names of the running pods that are always there."""
    return {pod["metadata"]["name"] for part in PARTS for pod in pods(kube, part)}


def rolled_out(kube: Kube, part: str, kind: str = "deployment") -> None:
    """Wait until a Deployment, or another workload, is as it should be."""
    name = f"{kind}/{NAME}-{part}"
    kube.run("rollout", "status", name, "-n", NAMESPACE, f"--timeout={READY_SECONDS}s", timeout_seconds=READY_SECONDS)


def condition(kube: Kube, resource: str, type_: str) -> Object:
    """A condition of an object; empty while there is none."""
    found = kube.get(resource, "-n", NAMESPACE).get("status", {}).get("conditions", ())
    return next((dict(each) for each in found if each["type"] == type_), {})

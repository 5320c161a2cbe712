"""The operator's own calls to the Kubernetes API, beside kopf's watches: list, get, patch, create an Event, scale.

Calls are not retried here: the work queue and the loops do that.
"""

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Final

from dtq.domain.manifests import GROUP, VERSION
from dtq_kube.client import KubeClient, credentials
from dtq_kube.errors import CallFailed, Conflict, NotFound, NotServed, called

REQUEST_SECONDS: Final = 15.0
"""Longest request, in seconds."""
PAGE: Final = 500
"""Objects per page of a list."""
PLURALS: Final[Mapping[str, str]] = {"TaskType": "tasktypes", "QueueSet": "queuesets"}
_SCALERS: Final[Mapping[str, str]] = {
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
    "ScaledObject": "/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects",
}
_METADATA: Final = itemgetter("metadata")
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Object = Mapping[str, Any]
"""A Kubernetes object, as JSON."""


class Kube(KubeClient):
    """A session with the API server."""

    def __init__(self) -> None:
        super().__init__(credentials, seconds=REQUEST_SECONDS)

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        try:
            return await self.request("GET", _path(kind, namespace, name), _identified)
        except NotFound:
            return None

    async def create(self, kind: str, namespace: str, body: Object) -> None:
        """Create an object.

        Raises:
            Conflict: it exists.
        """
        await self.request("POST", _path(kind, namespace), _METADATA, body=body)

    async def list_objects(self, kind: str, namespace: str | None, *, only_metadata: bool = False) -> list[Object]:
        """Return every object of a kind (a consistent read)."""
        return await self._pages(_path(kind, namespace), _METADATA_ONLY if only_metadata else "application/json")

    async def _pages(self, path: str, accept: str = "application/json") -> list[Object]:
        found: list[Object] = []
        token = ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            items, token = await self.request("GET", path, _page, query=query, accept=accept)
            found += items
            if not token:
                return found

    async def patch_status(self, kind: str, meta: Object, status: Object) -> Object:
        """Write the status of this object, but not of a re-created object with the same name.

        Raises:
            Conflict: the object is gone, or another object has its name now.
        """
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        path = _path(kind, meta["namespace"], meta["name"]) + "/status"
        return await self.request("PATCH", path, _identified, body=body)

    async def patch_finalizers(self, kind: str, meta: Object, finalizers: list[str]) -> Object:
        """Replace the finalizers of this version of an object.

        Raises:
            Conflict: the object was changed meanwhile: read it again.
        """
        version = {field: meta[field] for field in ("uid", "resourceVersion")}
        body = {"metadata": version | {"finalizers": finalizers or None}}
        return await self.request("PATCH", _path(kind, meta["namespace"], meta["name"]), _identified, body=body)

    async def record_event(self, namespace: str, event: Object) -> None:
        """Record an Event; an existing Event of that name is only updated as having happened again."""
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            await self.request("POST", path, _METADATA, body=event)
        except Conflict:
            again = {"lastTimestamp": event["lastTimestamp"]}
            await self.request("PATCH", f"{path}/{event['metadata']['name']}", _METADATA, body=again)

    async def scale(self, namespace: str, deployment: str) -> tuple[int, str]:
        """Return a Deployment's desired replicas and the scale's resourceVersion.

        Raises:
            NotFound: the Deployment does not exist.
        """
        return await self.request("GET", _scale_path(namespace, deployment), _replicas)

    async def patch_scale(self, namespace: str, deployment: str, replicas: int, version: str) -> None:
        """Set a Deployment's replicas unless its scale was changed meanwhile.

        Raises:
            Conflict: the scale was changed meanwhile.
            NotFound: the Deployment is gone.
        """
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        await self.request("PATCH", _scale_path(namespace, deployment), _METADATA, body=body)

    async def other_scalers(self, namespace: str) -> dict[str, str]:
        """Return the other scalers of Deployments in a namespace, by the Deployment's name."""
        found: dict[str, str] = {}
        for kind, template in _SCALERS.items():
            path = template.format(namespace=namespace)
            try:
                items = await self._pages(path)
            except NotServed:
                continue  # KEDA is not installed here
            for item in items:
                name = item["metadata"]["name"]
                try:
                    target = item["spec"]["scaleTargetRef"]
                    if target.get("kind", "Deployment") == "Deployment":
                        found.setdefault(target["name"], f"{kind} {name}")
                except (KeyError, TypeError, AttributeError) as error:
                    # It may scale any of our Deployments: two scalers would then set the same number.
                    raise CallFailed(called("GET", path), f"{kind} {name} has no readable scaleTargetRef") from error
        return found


def _identified(item: Any) -> Object:
    """Return an object after a check that it says which one it is."""
    found: Object = item
    for field in ("name", "namespace", "resourceVersion", "uid"):
        if not isinstance(found["metadata"][field], str):
            raise TypeError(field)
    return found


def _page(page: Object) -> tuple[list[Object], str]:
    """Return the objects of a page, which may be null, and the token of the next page."""
    return [_identified(item) for item in page["items"] or ()], page["metadata"].get("continue", "")


def _replicas(scale: Object) -> tuple[int, str]:
    return int(scale["spec"].get("replicas") or 0), scale["metadata"]["resourceVersion"]


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}" + (f"/{name}" if name else "")


def _scale_path(namespace: str, deployment: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"

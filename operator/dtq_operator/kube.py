"""The operator's own calls to the Kubernetes API, beside kopf's watches: list, get, patch, create an Event, scale.

They use one HTTP session. The `kubernetes` package is not needed for five calls, and its import alone takes more memory
than the rest of the operator. Calls are not retried here: the work queue and the loops do that. A call returns the
requested object or raises one of the errors of `kube_errors`, whatever the API server answers.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
import kopf
import yaml

from dtq.domain.errors import Unavailable
from dtq_operator.crd import GROUP, VERSION
from dtq_operator.kube_errors import CallFailed, Conflict, NotFound, NotServed, called, checked

REQUEST_SECONDS: Final = 15.0
"""Longest request, in seconds."""
PAGE: Final = 500
"""Objects per page of a list."""
MERGE_PATCH: Final = "application/merge-patch+json"
PLURALS: Final[Mapping[str, str]] = {"TaskType": "tasktypes", "QueueSet": "queuesets"}
_SCALERS: Final[Mapping[str, str]] = {
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
    "ScaledObject": "/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects",
}
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Object = Mapping[str, Any]
"""A Kubernetes object, as JSON."""


class Kube:
    """A session with the API server."""

    def __init__(self, settings: kopf.OperatorSettings) -> None:
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._retired: aiohttp.ClientSession | None = None
        """The session before this one: requests may still be under way in it."""
        self.requests = 0
        """Requests sent, for the metrics."""

    async def __aenter__(self) -> Self:
        """Open the session."""
        await self._login()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        for session in (self._session, self._retired):
            if session is not None:
                await session.close()

    async def get(self, kind: str, namespace: str, name: str) -> Object | None:
        """Return an object, or None if it does not exist."""
        path = _path(kind, namespace, name)
        try:
            return await self._request("GET", path, gives="uid")
        except NotFound:
            return None
        except Conflict as error:  # which a read cannot have
            raise CallFailed(called("GET", path), str(error).partition(": ")[2]) from error

    async def create(self, kind: str, namespace: str, body: Object) -> None:
        """Create an object.

        Raises:
            Conflict: it exists.
        """
        await self._request("POST", _path(kind, namespace), body=body)

    async def list_objects(self, kind: str, namespace: str | None) -> list[Object]:
        """Return every object of a kind (a consistent read)."""
        return await self._pages(_path(kind, namespace), "application/json")

    async def list_metadata(self, kind: str, namespace: str | None) -> list[Object]:
        """Return the metadata of every object of a kind (a consistent read)."""
        return [item["metadata"] for item in await self._pages(_path(kind, namespace), _METADATA_ONLY)]

    async def _pages(self, path: str, accept: str) -> list[Object]:
        found: list[Object] = []
        token = ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            try:
                page = await self._request("GET", path, query=query, accept=accept)
                found += [_identified(item) for item in page["items"] or ()]  # an empty list may be null
            except Conflict as error:  # which a list cannot have
                raise CallFailed(called("GET", path), str(error).partition(": ")[2]) from error
            except (KeyError, TypeError) as error:
                raise CallFailed.unreadable(called("GET", path)) from error
            token = page["metadata"].get("continue", "")
            if not token:
                return found

    async def patch_status(self, kind: str, meta: Object, status: Object) -> Object:
        """Write the status of this object, but not of a re-created object with the same name.

        Raises:
            Conflict: the object is gone, or another object has its name now.
        """
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        path = _path(kind, meta["namespace"], meta["name"]) + "/status"
        return await self._request("PATCH", path, body=body, gives="uid")

    async def patch_finalizers(self, kind: str, meta: Object, finalizers: list[str]) -> Object:
        """Replace the finalizers of this version of an object.

        Raises:
            Conflict: the object was changed meanwhile: read it again.
        """
        body = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers or None,
            }
        }
        return await self._request("PATCH", _path(kind, meta["namespace"], meta["name"]), body=body, gives="uid")

    async def record_event(self, namespace: str, event: Object) -> None:
        """Record an Event; an existing Event of that name is only updated as having happened again."""
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            await self._request("POST", path, body=event)
        except Conflict:
            again = {"lastTimestamp": event["lastTimestamp"]}
            await self._request("PATCH", f"{path}/{event['metadata']['name']}", body=again)

    async def scale(self, namespace: str, deployment: str) -> tuple[int, str] | None:
        """Return a Deployment's desired replicas and the scale's resourceVersion, or None if it does not exist."""
        path = _scale_path(namespace, deployment)
        try:
            scale = await self._request("GET", path, gives="resourceVersion")
        except NotFound:
            return None
        try:
            return int(scale["spec"].get("replicas") or 0), scale["metadata"]["resourceVersion"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CallFailed.unreadable(called("GET", path)) from error

    async def patch_scale(self, namespace: str, deployment: str, replicas: int, version: str) -> None:
        """Set a Deployment's replicas unless its scale was changed meanwhile.

        Raises:
            Conflict: the scale was changed meanwhile.
            NotFound: the Deployment is gone.
        """
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        await self._request("PATCH", _scale_path(namespace, deployment), body=body)

    async def other_scalers(self, namespace: str) -> dict[str, str]:
        """Return the other scalers of Deployments in a namespace, by the Deployment's name."""
        found: dict[str, str] = {}
        for kind, template in _SCALERS.items():
            path = template.format(namespace=namespace)
            try:
                items = await self._pages(path, "application/json")
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

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        accept: str = "application/json",
        gives: str = "",
    ) -> Object:
        """Send one request; authenticate again if the credentials have expired.

        `gives` names a field that the metadata of the answer must have.

        Raises:
            Conflict: the object is not in the expected state.
            CallFailed: the server does not answer, refuses, or sends an unreadable answer.
        """
        call = called(method, path)
        for attempt in (1, 2):
            assert self._session is not None
            self.requests += 1
            headers = {"Accept": accept} | ({"Content-Type": MERGE_PATCH} if method == "PATCH" else {})
            try:
                async with self._session.request(
                    method, path, params=query, json=body, headers=headers, allow_redirects=False
                ) as answer:
                    if answer.status == HTTPStatus.UNAUTHORIZED and attempt == 1:
                        await self._login()
                        continue
                    text = await answer.text(errors="replace")
                    found = checked(call, answer.status, answer.headers.get("Retry-After", ""), text)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                # The driver's message differs between tries, and each message would be another write of a condition.
                raise CallFailed(call, f"no answer ({type(error).__name__})") from error
            if gives and gives not in found["metadata"]:
                raise CallFailed.unreadable(call)
            return found
        raise CallFailed(call, "401 Unauthorized: the API server refuses the operator's credentials")

    async def _login(self) -> None:
        try:
            info = login(settings=self._settings)
        except (kopf.LoginError, OSError, ValueError, yaml.YAMLError) as error:
            raise Unavailable(f"the credentials for the Kubernetes API cannot be read: {error}") from error
        if info is None:
            raise Unavailable("no service account and no kubeconfig: nothing says where the Kubernetes API is")
        former, self._retired = self._retired, self._session
        if former is not None:
            await former.close()
        self._session = aiohttp.ClientSession(
            base_url=info.server,
            headers=info.as_http_headers(),
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context(), limit=16),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        )


def login(*, settings: kopf.OperatorSettings, **_: Any) -> kopf.ConnectionInfo | None:
    """Return how to reach the API server: as the pod's service account, otherwise by kubeconfig."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


def _identified(item: Any) -> Object:
    """Return an item of a list after a check that it identifies its object.

    Raises:
        KeyError, TypeError: it does not.
    """
    found: Object = item
    for field in ("name", "namespace", "resourceVersion"):
        if not isinstance(found["metadata"][field], str):
            raise TypeError(field)
    return found


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}" + (f"/{name}" if name else "")


def _scale_path(namespace: str, deployment: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"

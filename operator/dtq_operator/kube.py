"""The operator's own calls to the Kubernetes API: list, get, patch, create an event, scale.

Owns one HTTP session beside kopf's watches. The `kubernetes` package is not needed for five calls; its import
alone takes more memory than the rest of the operator. Must never retry: the work queue does.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
import kopf

from dtq.domain.errors import Unavailable
from dtq_operator.crd import GROUP, VERSION

REQUEST_SECONDS: Final = 15.0
"""Longest request, in seconds."""
PAGE: Final = 500
"""Objects of one page of a list."""
MERGE_PATCH: Final = "application/merge-patch+json"
PLURALS: Final[Mapping[str, str]] = {"TaskType": "tasktypes", "QueueSet": "queuesets"}
_SCALERS: Final[Mapping[str, str]] = {
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{namespace}/horizontalpodautoscalers",
    "ScaledObject": "/apis/keda.sh/v1alpha1/namespaces/{namespace}/scaledobjects",
}
_COME_BACK: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.GONE)
"""Too many at once, or a list that took so long that its next page is gone."""
_METADATA_ONLY: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"

Object = Mapping[str, Any]
"""A Kubernetes object, as JSON."""


class Conflict(Exception):
    """The object is not what we thought: gone, re-created, or changed meanwhile."""


class Refused(RuntimeError):
    """The API server does not accept the object, and will not next time."""


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
        """Return an object, or None."""
        try:
            found: Object = await self._request("GET", _path(kind, namespace, name))
        except Conflict:
            return None
        return found

    async def create(self, kind: str, namespace: str, body: Object) -> None:
        """Create an object.

        Raises:
            Conflict: it exists, or the kind is not defined here.
            Refused: it is not valid.
        """
        await self._request("POST", _path(kind, namespace), body=body)

    async def list_objects(self, kind: str, namespace: str | None) -> list[Object]:
        """Return every object of a kind, read consistently."""
        return await self._pages(_path(kind, namespace), "application/json")

    async def list_metadata(self, kind: str, namespace: str | None) -> list[Object]:
        """Return the metadata of every object of a kind, read consistently."""
        return [item["metadata"] for item in await self._pages(_path(kind, namespace), _METADATA_ONLY)]

    async def _pages(self, path: str, accept: str) -> list[Object]:
        found: list[Object] = []
        token = ""
        while True:
            query = {"limit": str(PAGE)} | ({"continue": token} if token else {})
            page = await self._request("GET", path, query=query, accept=accept)
            found += page.get("items") or []  # an empty list is null here
            token = page.get("metadata", {}).get("continue", "")
            if not token:
                return found

    async def patch_status(self, kind: str, meta: Object, status: Object) -> Object:
        """Write the status of that very object; a re-created one of the same name is not touched.

        Raises:
            Conflict: it is gone, or another object has its name now.
        """
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        patched: Object = await self._request(
            "PATCH", _path(kind, meta["namespace"], meta["name"]) + "/status", body=body
        )
        return patched

    async def patch_finalizers(self, kind: str, meta: Object, finalizers: list[str]) -> Object:
        """Replace the finalizers of that very version of an object.

        Raises:
            Conflict: it was changed meanwhile: read it again.
        """
        body = {
            "metadata": {
                "uid": meta["uid"],
                "resourceVersion": meta["resourceVersion"],
                "finalizers": finalizers or None,
            }
        }
        patched: Object = await self._request("PATCH", _path(kind, meta["namespace"], meta["name"]), body=body)
        return patched

    async def record_event(self, namespace: str, event: Object) -> None:
        """Record an event; one of that name which is there already is only made to have happened again."""
        path = f"/api/v1/namespaces/{namespace}/events"
        try:
            await self._request("POST", path, body=event)
        except Conflict:
            again = {"lastTimestamp": event["lastTimestamp"]}
            await self._request("PATCH", f"{path}/{event['metadata']['name']}", body=again)

    async def scale(self, namespace: str, deployment: str) -> tuple[int, str] | None:
        """Return a Deployment's replicas as wanted now and the scale's resourceVersion, or None if there is none."""
        try:
            scale = await self._request("GET", _scale_path(namespace, deployment))
        except Conflict:
            return None
        return int(scale["spec"].get("replicas", 0)), scale["metadata"]["resourceVersion"]

    async def patch_scale(self, namespace: str, deployment: str, replicas: int, version: str) -> None:
        """Set a Deployment's replicas, unless somebody else has just done so.

        Raises:
            Conflict: somebody else has.
        """
        body = {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}}
        await self._request("PATCH", _scale_path(namespace, deployment), body=body)

    async def other_scalers(self, namespace: str) -> dict[str, str]:
        """Return who else scales Deployments of a namespace, by the Deployment's name."""
        found: dict[str, str] = {}
        for kind, path in _SCALERS.items():
            try:
                items = await self._pages(path.format(namespace=namespace), "application/json")
            except Conflict:
                continue  # KEDA is not installed here
            for item in items:
                target = item["spec"].get("scaleTargetRef") or {}
                if target.get("kind", "Deployment") == "Deployment" and "name" in target:
                    found.setdefault(target["name"], f"{kind} {item['metadata']['name']}")
        return found

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        accept: str = "application/json",
    ) -> Any:
        """Send one request; sign in anew if the credentials have expired.

        Raises:
            Conflict: 404, 409 or 422 for a uid that differs.
            Unavailable: the server does not answer, or asks us to come back.
        """
        for attempt in (1, 2):
            assert self._session is not None
            self.requests += 1
            headers = {"Accept": accept} | ({"Content-Type": MERGE_PATCH} if method == "PATCH" else {})
            try:
                async with self._session.request(method, path, params=query, json=body, headers=headers) as answer:
                    if answer.status == HTTPStatus.UNAUTHORIZED and attempt == 1:
                        await self._login()
                        continue
                    return await _checked(answer)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Unavailable(f"the Kubernetes API does not answer: {type(error).__name__}: {error}") from error
        raise Unavailable("the Kubernetes API refuses our credentials")

    async def _login(self) -> None:
        info = login(settings=self._settings)
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
    """Return how to reach the API server: as the pod's service account, else by kubeconfig."""
    return kopf.login_with_service_account(settings=settings) or kopf.login_with_kubeconfig(settings=settings)


async def _checked(answer: aiohttp.ClientResponse) -> Any:
    if answer.status < HTTPStatus.BAD_REQUEST:
        return await answer.json(content_type=None)
    text = (await answer.text())[:300]
    if answer.status in (HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT):
        raise Conflict(text)
    if answer.status == HTTPStatus.UNPROCESSABLE_ENTITY and "uid" in text:
        raise Conflict(text)
    if answer.status in _COME_BACK or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        retry_after = answer.headers.get("Retry-After", "")
        raise Unavailable(
            f"the Kubernetes API answered {answer.status}", int(retry_after) if retry_after.isdigit() else 2
        )
    if answer.status == HTTPStatus.FORBIDDEN:
        raise Unavailable(f"the Kubernetes API forbids it, check the operator's Role: {text}", 30)
    if answer.status in (HTTPStatus.BAD_REQUEST, HTTPStatus.UNPROCESSABLE_ENTITY):
        raise Refused(f"the Kubernetes API answered {answer.status}: {text}")
    raise RuntimeError(f"the Kubernetes API answered {answer.status}: {text}")


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    scope = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{GROUP}/{VERSION}{scope}/{PLURALS[kind]}" + (f"/{name}" if name else "")


def _scale_path(namespace: str, deployment: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}/scale"

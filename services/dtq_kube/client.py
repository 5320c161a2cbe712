"""The one client of the Kubernetes API: a session of the official `kubernetes` package.

Requests name their path to the package's `ApiClient`: its generated classes for the same calls take 100 MB more memory.
No request is retried here, its caller does that. A request returns the requested object or raises one of the errors of
`errors`, whatever the API server answers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.rest import RESTResponse
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config
from yaml import YAMLError

from dtq.domain.errors import Unavailable
from dtq_kube.errors import CallFailed, called, checked

CONNECTIONS_MAX: Final = 16
"""Most requests of a session under way at once."""
T = TypeVar("T")


class KubeClient:
    """A session with the API server; it begins with the block or with the first request.

    Args:
        configure: returns the server and the credentials; called again if one of them is refused.
        seconds: longest request, in seconds.
    """

    def __init__(self, configure: Callable[[], Awaitable[Configuration]], *, seconds: float) -> None:
        self._configure = configure
        self._seconds = seconds
        self._api: ApiClient | None = None
        self._retired: ApiClient | None = None
        """The session before this one: requests may still be under way in it."""
        self._renewing = asyncio.Lock()
        self.requests = 0
        """Requests sent, for the metrics."""

    async def __aenter__(self) -> Self:
        """Open the session."""
        await self._renewed(None)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the session."""
        for api in (self._api, self._retired):
            if api is not None:
                await api.close()

    async def request(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
    ) -> T:
        """Send one request and return what `read` finds in the answer; renew credentials that have expired.

        Raises:
            Conflict: the object is not in the expected state.
            CallFailed: the server does not answer, refuses, or sends an unreadable answer.
            Unavailable: the credentials cannot be read.
        """
        call = called(method, path)
        headers = {"Accept": accept} | ({"Content-Type": "application/merge-patch+json"} if method == "PATCH" else {})
        request = {"query_params": query, "header_params": headers, "body": body}
        try:
            async with asyncio.timeout(self._seconds):
                answer = await self._answer(method=method, resource_path=path, **request)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, ConfigException) as error:
            # The driver's message differs between tries, and each message would be another write of a condition.
            raise CallFailed(call, f"no answer ({type(error).__name__})") from error
        found = checked(call, answer.status, answer.headers.get("Retry-After", ""), answer.data)
        try:
            return read(found)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CallFailed(call, "the answer cannot be read: is this the API server?") from error

    async def _answer(self, **request: Any) -> RESTResponse:
        api = self._api or await self._renewed(None)
        with suppress(aiohttp.ClientConnectorCertificateError):  # the authority may have been replaced
            answer = await self._send(api, request)
            if answer.status != HTTPStatus.UNAUTHORIZED:
                return answer
        return await self._send(await self._renewed(api), request)

    async def _send(self, api: ApiClient, request: Mapping[str, Any]) -> RESTResponse:
        self.requests += 1
        answer = await api.call_api(*await api.param_serialize(**request, auth_settings=["BearerToken"]))
        await answer.read()
        return answer

    async def _renewed(self, failed: ApiClient | None) -> ApiClient:
        """Replace the session that failed, unless another request has done so; return the one to use."""
        async with self._renewing:
            if self._api is failed:
                try:
                    configuration = await self._configure()
                    configuration.connection_pool_maxsize = CONNECTIONS_MAX
                    configuration.client_session_kwargs = {"trust_env": False}
                    former, self._retired, self._api = self._retired, failed, ApiClient(configuration)
                except (ConfigException, OSError, ValueError, TypeError, AttributeError, YAMLError) as error:
                    raise Unavailable(f"the credentials for the Kubernetes API cannot be read: {error}") from error
                if former is not None:
                    await former.close()
            assert self._api is not None
            return self._api


async def service_account(server: str, folder: Path) -> Configuration:
    """Return the configuration of a pod. Its token is read for each request, since it rotates."""

    def read_token(configuration: Configuration) -> None:
        token = (folder / "token").read_text(encoding="utf-8").strip()
        configuration.api_key["BearerToken"] = f"Bearer {token}"

    found = Configuration(host=server, ssl_ca_cert=str(folder / "ca.crt"))
    found.refresh_api_key_hook = read_token
    read_token(found)
    return found


async def credentials() -> Configuration:
    """Return the configuration of this pod's service account, otherwise of the kubeconfig's current context."""
    found = Configuration()
    try:
        load_incluster_config(found)
    except ConfigException:
        await load_kube_config(client_configuration=found, persist_config=False)
    return found

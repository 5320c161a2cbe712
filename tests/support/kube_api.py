"""A client of a real API server for tests: any object, any verb, bounded.

Uses only the kubeconfig that it is given: the environment's kubeconfig belongs to another cluster.
"""

import re
import ssl
import tempfile
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import aiohttp
import yaml

REQUEST_SECONDS = 20.0
MERGE_PATCH = "application/merge-patch+json"
_REQUEST_TOTAL = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)$", re.MULTILINE)

Object = dict[str, Any]


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class KubeApi:
    """A session with an API server, as its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        self.server: str = config["clusters"][0]["cluster"]["server"]
        self.tls = _tls(config["clusters"][0]["cluster"], config["users"][0]["user"])
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            base_url=self.server,
            connector=aiohttp.TCPConnector(ssl=self.tls, limit=32, force_close=False),
            timeout=aiohttp.ClientTimeout(total=REQUEST_SECONDS),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def call(
        self, method: str, path: str, body: Object | None = None, *, query: Mapping[str, str] | None = None
    ) -> Any:
        """Send a request; return the answer as JSON, or as text."""
        assert self._session is not None
        headers = {"Content-Type": MERGE_PATCH} if method == "PATCH" else {}
        async with self._session.request(method, path, json=body, headers=headers, params=query) as answer:
            text = await answer.text()
            if answer.status >= 400:
                raise ApiError(answer.status, text)
            return await answer.json() if answer.content_type == "application/json" else text

    async def find(self, path: str) -> Object | None:
        """An object, or None."""
        try:
            found: Object = await self.call("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        return found

    async def requests(self, resource: str) -> dict[str, int]:
        """Return how many requests about a resource the API server answered, by verb and subresource."""
        counted: dict[str, int] = {}
        for match in _REQUEST_TOTAL.finditer(await self.call("GET", "/metrics")):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', match["labels"]))
            if labels.get("resource") == resource:
                verb = f"{labels['verb']} {labels['subresource']}".strip()
                counted[verb] = counted.get(verb, 0) + int(float(match["value"]))
        return counted


def _tls(cluster: Mapping[str, str], user: Mapping[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=_content(cluster, "certificate-authority"))
    with tempfile.NamedTemporaryFile("w") as certificate, tempfile.NamedTemporaryFile("w") as key:
        certificate.write(_content(user, "client-certificate"))
        key.write(_content(user, "client-key"))
        certificate.flush()
        key.flush()
        context.load_cert_chain(certificate.name, key.name)
    return context


def _content(entry: Mapping[str, str], name: str) -> str:
    inline = entry.get(f"{name}-data")
    return b64decode(inline).decode() if inline else Path(entry[name]).read_text()

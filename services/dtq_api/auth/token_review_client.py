"""The TokenReview client: asks the Kubernetes API server for the owner of a ServiceAccount token.

The API's own token and the CA are read for each review, since they rotate.
"""

import asyncio
import ssl
import time
from pathlib import Path
from typing import Final

import httpx2
import msgspec
import structlog

from dtq.domain.errors import Unavailable
from dtq.runtime.metrics import ApiMetrics
from dtq_api.auth.policy import Caller
from dtq_api.auth.token_review_cache import Verdict

REVIEW_SECONDS: Final = 2.0
"""Longest review, in seconds: a request must not hang on the API server."""
REVIEWS_MAX: Final = 8
"""Reviews under way at once: unknown callers must not load the API server through us."""
PAUSE_SECONDS: Final = 1.0
"""How long no review is sent after a failed review, in seconds."""
RETRY_AFTER_SECONDS: Final = 5
"""When a caller whose token could not be reviewed should try again, in seconds."""

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_USER: Final = "system:serviceaccount:"
_log = structlog.get_logger(__name__)


class User(msgspec.Struct, frozen=True):
    """The owner of the token."""

    username: str = ""
    groups: list[str] | None = None


class Status(msgspec.Struct, frozen=True):
    """The API server's verdict; an authenticator that does not know audiences omits them."""

    authenticated: bool = False
    audiences: list[str] | None = None
    user: User = User()


class Review(msgspec.Struct, frozen=True):
    """The part of a TokenReview that is read."""

    status: Status


class TokenReviewClient:
    """Reviews tokens at the API server.

    Args:
        server: the URL of the API server.
        folder: the mounted service account: `token` and `ca.crt`.
        audience: the audience that tokens must have.
    """

    def __init__(self, server: str, folder: Path, *, audience: str, metrics: ApiMetrics) -> None:
        self._server = server
        self._folder = folder
        self._audience = audience
        self._metrics = metrics
        self._slots = asyncio.Semaphore(REVIEWS_MAX)
        self._ca = ""
        self._client: httpx2.AsyncClient | None = None
        self._down_until = 0.0

    async def review(self, token: str) -> Verdict:
        """Return the owner of a token, or why the token is refused.

        Raises:
            Unavailable: the API server does not answer, or does not permit reviews.
        """
        try:
            if time.monotonic() < self._down_until:
                raise _unavailable("it did not answer just now")
            async with asyncio.timeout(REVIEW_SECONDS), self._slots:
                status = await self._ask(token)
        except (httpx2.HTTPError, msgspec.MsgspecError, ValueError, OSError, TimeoutError, Unavailable) as error:
            self._metrics.reviews.labels("unavailable").inc()
            if isinstance(error, Unavailable):
                raise
            self._down_until = time.monotonic() + PAUSE_SECONDS
            _log.warning("a token cannot be reviewed", reason=f"{type(error).__name__}: {error}")
            raise _unavailable(type(error).__name__) from error
        verdict = self._verdict(status)
        self._metrics.reviews.labels("good" if isinstance(verdict, Caller) else "bad").inc()
        return verdict

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()

    async def _ask(self, token: str) -> Status:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        ours = (self._folder / "token").read_text(encoding="utf-8").strip()
        client = await self._connected((self._folder / "ca.crt").read_text(encoding="utf-8"))
        answer = await client.post(_PATH, json=review, headers={"Authorization": f"Bearer {ours}"})
        if answer.is_success:
            return msgspec.json.decode(answer.content, type=Review).status
        _log.error(
            "the API server does not let us review tokens: the API's ServiceAccount needs `create` on tokenreviews"
            if answer.status_code in (401, 403)
            else "the API server does not review a token",
            status=answer.status_code,
        )
        raise _unavailable(f"it answered {answer.status_code}")

    async def _connected(self, ca: str) -> httpx2.AsyncClient:
        if self._client is None or ca != self._ca:
            try:
                tls = ssl.create_default_context(cadata=ca)
            except (ssl.SSLError, ValueError) as error:
                raise OSError(f"ca.crt is no certificate: {error}") from error
            await self.close()
            self._ca = ca
            self._client = httpx2.AsyncClient(
                base_url=self._server, verify=tls, timeout=REVIEW_SECONDS, trust_env=False
            )
        return self._client

    def _verdict(self, status: Status) -> Verdict:
        if not status.authenticated:
            return "the Kubernetes API refuses the token: it has expired, or its ServiceAccount or pod is gone"
        # Without audiences the token may be for any audience.
        if self._audience not in (status.audiences or ()):
            return f"the token is for another audience: ask for one with audience {self._audience}"
        if not status.user.username.startswith(_USER):
            return "the token is not that of a ServiceAccount"
        return Caller(status.user.username, frozenset(status.user.groups or ()))


def _unavailable(reason: str) -> Unavailable:
    return Unavailable(f"the Kubernetes API cannot review the token ({reason}): try again", RETRY_AFTER_SECONDS)

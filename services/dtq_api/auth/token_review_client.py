"""The TokenReview client: asks the Kubernetes API server for the owner of a ServiceAccount token."""

import asyncio
import time
from operator import itemgetter
from pathlib import Path
from typing import Final

import msgspec
import structlog

from dtq.domain.errors import Unavailable
from dtq.runtime.loops import acquire
from dtq.runtime.metrics import ApiMetrics
from dtq_api.auth.policy import Caller
from dtq_api.auth.token_review_cache import Verdict
from dtq_kube.errors import Conflict, Refused

REVIEW_SECONDS: Final = 2.0
"""Longest review, in seconds: a request must not hang on the API server."""
PAUSE_SECONDS: Final = 1.0
"""How long no review is sent after a failed review, in seconds."""
RETRY_AFTER_SECONDS: Final = 5
"""When a caller whose token could not be reviewed should try again, in seconds."""

_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
_KEYS_TYPE: Final = "application/jwk-set+json"
_KEYS_PATH: Final = "/openid/v1/jwks"
"""Readable by every ServiceAccount, by the cluster role `system:service-account-issuer-discovery`."""
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


class TokenReviewClient:
    """Reviews tokens at the API server with the service account mounted in `folder`: `token` and `ca.crt`."""

    def __init__(self, server: str, folder: Path, *, audience: str, metrics: ApiMetrics) -> None:
        # It takes memory that an API without TokenReviews must not pay for.
        from dtq_api.auth.signing_keys import SigningKeys  # noqa: PLC0415
        from dtq_kube.client import CONNECTIONS_MAX, KubeClient, service_account  # noqa: PLC0415

        self._kube = KubeClient(lambda: service_account(server, folder), seconds=REVIEW_SECONDS)
        self._keys = SigningKeys(lambda: self._kube.request("GET", _KEYS_PATH, dict, accept=_KEYS_TYPE))
        self._slots = asyncio.Semaphore(CONNECTIONS_MAX)
        self._audience = audience
        self._metrics = metrics
        self._down_until = 0.0

    async def review(self, token: str) -> Verdict:
        """Return the owner of a token, or why the token is refused.

        Raises:
            Unavailable: the API server does not answer, or does not permit reviews.
        """
        try:
            verdict = self._verdict(await self._ask(token))
        except Unavailable:
            self._metrics.reviews.labels("unavailable").inc()
            raise
        self._metrics.reviews.labels("good" if isinstance(verdict, Caller) else "bad").inc()
        return verdict

    async def is_forged(self, token: str) -> bool:
        """Return whether the cluster has not signed a token: such a token needs no review."""
        forged = await self._keys.is_forged(token)
        if forged:
            self._metrics.reviews.labels("forged").inc()
        return forged

    async def close(self) -> None:
        """Close the connections."""
        await self._kube.__aexit__()

    async def _ask(self, token: str) -> Status:
        failure = Unavailable("the Kubernetes API cannot review the token now: try again", RETRY_AFTER_SECONDS)
        if time.monotonic() < self._down_until:
            raise failure
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        if not await acquire(self._slots, REVIEW_SECONDS):
            raise failure  # many callers are new, which says nothing about the API server
        try:
            status = await self._kube.request("POST", _PATH, itemgetter("status"), body=review)
            return msgspec.convert(status, Status)
        except (Unavailable, Conflict, msgspec.ValidationError) as error:
            # A refusal ends when a person changes a Role; it costs the API server little to say so again.
            if not isinstance(error, Refused):
                self._down_until = time.monotonic() + PAUSE_SECONDS
            _log.warning("a token cannot be reviewed", reason=str(error))
            raise failure from error
        finally:
            self._slots.release()

    def _verdict(self, status: Status) -> Verdict:
        if not status.authenticated:
            return "the Kubernetes API refuses the token: it has expired, or its ServiceAccount or pod is gone"
        # Without audiences the token may be for any audience.
        if self._audience not in (status.audiences or ()):
            return f"the token is for another audience: ask for one with audience {self._audience}"
        if not status.user.username.startswith(_USER):
            return "the token is not that of a ServiceAccount"
        return Caller(status.user.username, frozenset(status.user.groups or ()))

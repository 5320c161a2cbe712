"""Authentication: from a request's credential to its caller's permissions.

The token file is checked first, then the API server. No log or answer contains a token.
"""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from dtq.domain.errors import Rejected
from dtq.runtime.metrics import ApiMetrics
from dtq.runtime.settings import ApiSettings, Switch
from dtq_api.auth.policy import EVERYTHING, Policy, Rights, default_policy, parse_policy
from dtq_api.auth.reloading_file import ReloadingFile
from dtq_api.auth.token_claims import refusal
from dtq_api.auth.token_review_cache import TokenReviewCache, Verdict
from dtq_api.auth.token_review_client import TokenReviewClient
from dtq_api.auth.tokens import Tokens, digest_of, parse_tokens

REFRESH_SECONDS: Final = 1.0
"""How often the files are checked for changes, in seconds."""
TOKEN_CHARS_MAX: Final = 8_192
"""Longest token, in characters: ServiceAccount tokens have about a thousand characters."""
_log = structlog.get_logger(__name__)
_BEARER: Final = re.compile(rb"[Bb]earer +([A-Za-z0-9._~+/=-]{1,%d})" % TOKEN_CHARS_MAX)


class NoAuthentication:
    """Accepts every caller: the API listens where only this machine can reach it."""

    async def rights(self, _: Sequence[bytes]) -> Rights:
        """Return all permissions."""
        return EVERYTHING

    async def refresh(self) -> bool:
        """Return False."""
        return False

    async def close(self) -> None:
        """Do nothing."""


class TokenAuthenticator:
    """Requires a token from every caller: of the token file, or one that the API server reviews."""

    def __init__(
        self,
        *,
        tokens: ReloadingFile[Tokens] | None,
        reviews: TokenReviewClient | None,
        policy: ReloadingFile[Policy] | Policy,
        audience: str,
        metrics: ApiMetrics,
    ) -> None:
        self._tokens = tokens
        self._reviews = reviews
        self._policy = policy
        self._audience = audience
        self._metrics = metrics
        self._verdicts = TokenReviewCache(time.monotonic)

    async def rights(self, credentials: Sequence[bytes]) -> Rights:
        """Return the permissions of a request's caller; `credentials` are the values of its Authorization headers.

        Raises:
            Rejected: `Unauthenticated`.
            Unavailable: the caller cannot be authenticated now.
        """
        if not credentials:
            raise self._refused("missing", "the token is missing: send Authorization: Bearer TOKEN")
        match = _BEARER.fullmatch(credentials[0]) if len(credentials) == 1 else None
        if match is None:
            raise self._refused("invalid", "the Authorization header is invalid: send one, of the form Bearer TOKEN")
        verdict = await self._verdict(match[1].decode())
        if isinstance(verdict, str):
            raise self._refused("invalid", verdict)
        policy = self._policy.current if isinstance(self._policy, ReloadingFile) else self._policy
        return policy.rights(verdict)

    async def refresh(self) -> bool:
        """Read again what has changed; return False: there is never more to do at once."""
        for file in (self._tokens, self._policy):
            if isinstance(file, ReloadingFile):
                file.refresh()
        return False

    async def close(self) -> None:
        """Close connections."""
        if self._reviews is not None:
            await self._reviews.close()

    async def _verdict(self, token: str) -> Verdict:
        digest = digest_of(token)
        if self._tokens is not None:
            known = self._tokens.current.find(digest, datetime.now(UTC).date())
            if known is not None:
                return known
        if self._reviews is None:
            return "the token is unknown"
        if (reason := refusal(token, self._audience, time.time())) is not None:
            return reason
        reviews = self._reviews
        return await self._verdicts.get(digest, lambda: _reviewed(reviews, token))

    def _refused(self, result: str, message: str) -> Rejected:
        self._metrics.refused.labels(result).inc()
        return Rejected("Unauthenticated", message)


Authenticator = NoAuthentication | TokenAuthenticator


async def _reviewed(reviews: TokenReviewClient, token: str) -> Verdict:
    if await reviews.is_forged(token):
        return "the token was not signed by this cluster"
    return await reviews.review(token)


def authenticator_of(settings: ApiSettings, metrics: ApiMetrics) -> Authenticator:
    """Return the authenticator for the settings.

    Raises:
        Rejected: `InvalidSettings`: a file has mistakes.
    """
    if settings.auth is Switch.OFF:
        return NoAuthentication()
    tokens = None
    if settings.auth_tokens_file is not None:
        tokens = ReloadingFile(settings.auth_tokens_file, parse_tokens, variable="DTQ_AUTH_TOKENS_FILE")
    reviews = _reviews(settings, metrics)
    if tokens is None and reviews is None:
        raise Rejected(
            "InvalidSettings",
            f"DTQ_AUTH is on, but there is no token file, and no service account in {settings.auth_service_account}:"
            " mount one (automountServiceAccountToken), or set DTQ_AUTH_TOKENS_FILE",
        )
    policy: ReloadingFile[Policy] | Policy = default_policy(_namespace(settings.auth_service_account))
    if settings.auth_policy_file is not None:
        policy = ReloadingFile(settings.auth_policy_file, parse_policy, variable="DTQ_AUTH_POLICY_FILE")
    _log.info("authentication enabled", token_file=tokens is not None, service_accounts=reviews is not None)
    return TokenAuthenticator(
        tokens=tokens, reviews=reviews, policy=policy, audience=settings.auth_audience, metrics=metrics
    )


def _reviews(settings: ApiSettings, metrics: ApiMetrics) -> TokenReviewClient | None:
    folder, host = settings.auth_service_account, settings.kubernetes_host
    if not host or not (folder / "token").exists():
        return None
    server = f"https://{f'[{host}]' if ':' in host else host}:{settings.kubernetes_port}"
    return TokenReviewClient(server, folder, audience=settings.auth_audience, metrics=metrics)


def _namespace(folder: Path) -> str | None:
    file = folder / "namespace"
    return file.read_text(encoding="utf-8").strip() if file.exists() else None

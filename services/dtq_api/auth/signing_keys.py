"""The keys with which the cluster signs ServiceAccount tokens: a forged token is refused without a TokenReview.

The keys say who signed a token, not whether its ServiceAccount and pod still exist: only the API server knows that.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import jwt
import structlog

from dtq.domain.errors import Unavailable

REFRESH_SECONDS: Final = 300.0
"""How long keys are used before they are read again, in seconds; a key that is gone signs no new tokens."""
MISS_SECONDS: Final = 10.0
"""Shortest time between two reads of the keys, in seconds: forged tokens name keys that do not exist."""
ALGORITHMS: Final = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512")
"""What Kubernetes can sign with; never "none" or a shared secret."""

_log = structlog.get_logger(__name__)


class SigningKeys:
    """The cluster's keys, as its issuer publishes them (OpenID Connect Discovery: a JSON Web Key Set)."""

    def __init__(self, read: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._read = read
        self._keys: dict[str, Any] | None = None
        self._read_at = float("-inf")

    async def is_forged(self, token: str) -> bool:
        """Return whether no key of the cluster has signed a token; while the keys are unknown, no token is forged."""
        try:
            name = str(jwt.get_unverified_header(token).get("kid", ""))
        except jwt.InvalidTokenError:
            return True
        await self._refresh(name)
        if self._keys is None:
            return False
        if name not in self._keys:
            return True
        try:
            # Only the signature: `token_claims` checks the claims, with messages for their senders.
            jwt.PyJWS().decode(token, self._keys[name], algorithms=ALGORITHMS)
        except jwt.InvalidTokenError:
            return True
        return False

    async def _refresh(self, name: str) -> None:
        age = time.monotonic() - self._read_at
        if age < MISS_SECONDS or (age < REFRESH_SECONDS and self._keys is not None and name in self._keys):
            return
        self._read_at = time.monotonic()
        try:
            self._keys = {str(key.key_id): key for key in jwt.PyJWKSet.from_dict(await self._read()).keys}
        except (Unavailable, jwt.PyJWTError) as error:
            _log.warning("signing keys not read", reason=str(error))

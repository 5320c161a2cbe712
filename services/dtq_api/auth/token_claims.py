"""Reads the unverified claims of a ServiceAccount token: enough to refuse the token, never enough to accept it.

Malformed tokens and tokens for another audience are refused without a review by the API server.
"""

import base64
import binascii
import re
from typing import Final

import msgspec

SKEW_SECONDS: Final = 60.0
"""How far our clock may differ from the issuer's, in seconds, before a token is refused without a review."""
_PART: Final = re.compile(r"[A-Za-z0-9_-]+")


class Claims(msgspec.Struct, frozen=True):
    """The claims that are checked."""

    aud: str | list[str] = ""
    exp: float = 0.0
    sub: str = ""


def refusal(token: str, audience: str, now: float) -> str | None:
    """Return why a token is invalid `now`, in seconds since the epoch, or None if the API server must review it."""
    parts = token.split(".")
    if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):  # noqa: PLR2004 - head, claims, signature
        return "the token is unknown"
    try:
        claims = msgspec.json.decode(_decoded(parts[1]), type=Claims)
    except (msgspec.MsgspecError, binascii.Error, UnicodeDecodeError):
        return "the token is unknown"
    if not claims.sub.startswith("system:serviceaccount:"):
        return "the token is not that of a ServiceAccount"
    if audience not in (claims.aud if isinstance(claims.aud, list) else [claims.aud]):
        return f"the token is for another audience: ask for one with audience {audience}"
    if claims.exp < now - SKEW_SECONDS:
        return "the token has expired"
    return None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))

"""The token file: one hash of a bearer token per line, as `dtq token` prints it.

The file holds no tokens, so reading it does not give access to the API.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import date
from typing import Final

from dtq.domain.errors import Problem, Rejected
from dtq_api.auth.policy import TOKEN_GROUP, Caller

TOKENS_MAX: Final = 200
"""Most tokens in a file: every received token is compared with each of them."""
TOKEN_BYTES: Final = 32
"""Randomness of a new token, in bytes: it cannot be guessed, so a fast hash is enough."""
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the token file.

    Attributes:
        expires: the first day on which the token is refused, in UTC; None means never.
    """

    name: str
    digest: bytes
    expires: date | None = None


class Tokens:
    """All tokens of a file."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    def find(self, digest: bytes, today: date) -> Caller | str | None:
        """Return the owner of the token with this hash, or why it is refused; None if the file does not list it.

        Every line is compared, each in constant time, so that the time reveals nothing about the hashes.
        """
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.digest, digest):
                found = token
        if found is None:
            return None
        if found.expires is not None and today >= found.expires:
            return f"the token {found.name} has expired on {found.expires}"
        return Caller(f"token:{found.name}", frozenset({TOKEN_GROUP}))


def digest_of(token: str) -> bytes:
    """Return the hash of a token."""
    return hashlib.sha256(token.encode()).digest()


def new_token(name: str, expires: date | None = None) -> tuple[str, str]:
    """Return a new token and its line for the token file.

    Raises:
        Rejected: `InvalidTokens`: the name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise Rejected("InvalidTokens", f"{name!r} is not a valid name of a token: use a-z, 0-9, dot, dash, underscore")
    token = secrets.token_urlsafe(TOKEN_BYTES)
    return token, ":".join((name, digest_of(token).hex(), *([str(expires)] if expires else [])))


def parse_tokens(text: str) -> Tokens:
    """Return the tokens of a file with lines `NAME:SHA256` or `NAME:SHA256:YYYY-MM-DD`; # begins a comment.

    A name may appear twice, so that a token can be replaced while the old token still works.

    Raises:
        Rejected: `InvalidTokens`, with every mistake; no hash is shown.
    """
    tokens: list[Token] = []
    problems: list[Problem] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if content := line.partition("#")[0].strip():
            try:
                tokens.append(_token(content))
            except ValueError as error:
                problems.append(Problem(path=f"line {number}", message=str(error)))
    if len(tokens) > TOKENS_MAX:
        problems.append(Problem(path="the file", message=f"has {len(tokens)} tokens; at most {TOKENS_MAX} are allowed"))
    if problems:
        told = "; ".join(f"{problem.path} {problem.message}" for problem in problems)
        raise Rejected("InvalidTokens", told, tuple(problems))
    return Tokens(tuple(tokens))


def _token(content: str) -> Token:
    name, _, rest = content.partition(":")
    digest, _, expires = rest.partition(":")
    if not _NAME.fullmatch(name):
        raise ValueError("does not begin with a name (a-z, 0-9, dot, dash, underscore) and a colon")
    if not _HASH.fullmatch(digest):
        raise ValueError("has no SHA-256 of a token, 64 hexadecimal digits: `dtq token` prints such a line")
    try:
        return Token(name, bytes.fromhex(digest), date.fromisoformat(expires) if expires else None)
    except ValueError as error:
        raise ValueError("does not end with a date such as 2027-01-31") from error

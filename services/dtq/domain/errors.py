"""The three errors of dtq, named after who must act.

Any other exception is a bug: the process stops and is restarted.
"""

from dataclasses import dataclass
from typing import Final

RETRY_AFTER_SECONDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in an input: where it is and what to do about it."""

    path: str
    message: str


class DtqError(Exception):
    """Base of the errors that dtq raises on purpose."""


class Rejected(DtqError):
    """The caller must change something; the same input fails again, at least for now.

    Attributes:
        code: a stable CamelCase identifier, e.g. `UnknownType`.
        problems: the mistakes, one by one, if there are several.
        retry_after_seconds: when the same input may be accepted, if only its time was wrong.
    """

    def __init__(
        self,
        code: str,
        message: str,
        problems: tuple[Problem, ...] = (),
        *,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.problems = problems
        self.retry_after_seconds = retry_after_seconds


class Unavailable(DtqError):
    """A service that dtq needs does not answer; the same call may succeed later.

    Attributes:
        retry_after_seconds: when to try again.
        in_doubt: the answer to a write was lost, so the write may have taken effect; otherwise nothing was changed.
    """

    def __init__(self, message: str, retry_after_seconds: int = RETRY_AFTER_SECONDS, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.in_doubt = in_doubt


class Unmigrated(Unavailable):
    """The database answers but lacks the schema that this release needs: `dtq migrate` has not run."""


class Stale(DtqError):
    """The lease is lost, another process has taken over, and the write is void."""

"""The three errors of dtq, named by who must act.

Anything else that is raised is a bug: the process stops and is started again.
"""

from dataclasses import dataclass
from typing import Final

RETRY_AFTER_SECONDS: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with an input: where it stands and what to do about it."""

    path: str
    message: str


class DtqError(Exception):
    """Base of the errors that dtq raises on purpose."""


class Rejected(DtqError):
    """The caller must change something; the same input fails again.

    Attributes:
        code: a stable CamelCase word, e.g. `UnknownType`.
        problems: every single mistake, if there are several.
    """

    def __init__(self, code: str, message: str, problems: tuple[Problem, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.problems = problems


class Unavailable(DtqError):
    """A service dtq needs does not answer; the same call may pass later.

    Attributes:
        retry_after_seconds: when it is worth another try.
        in_doubt: the answer to a write was lost, so that it may have taken effect; otherwise nothing was changed.
    """

    def __init__(self, message: str, retry_after_seconds: int = RETRY_AFTER_SECONDS, *, in_doubt: bool = False) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.in_doubt = in_doubt


class Unmigrated(Unavailable):
    """The database answers, and does not have the schema that this release needs: `dtq migrate` has not run."""


class Stale(DtqError):
    """Someone else won: the lease is gone, and what was about to be written is void."""

"""The suspects that this worker has claimed and not started yet, in the order in which they run."""

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from dtq.domain.suspects import may_wait
from dtq_db.attempts import Claim


@dataclass(eq=False, slots=True)
class Suspect:
    """A claimed task that must run alone."""

    worker_id: UUID
    claim: Claim
    claimed_at: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def may_wait(self, *, is_next: bool) -> bool:
        """Return whether it stays here, or is given back for others to run."""
        waited = time.monotonic() - self.claimed_at
        suspected = (self.claim.suspected_seconds or 0.0) + waited
        return not self.cancelled and may_wait(waited_seconds=waited, suspected_seconds=suspected, is_next=is_next)


class Suspects:
    """A queue of suspects."""

    def __init__(self) -> None:
        self._waiting: deque[Suspect] = deque()

    def __bool__(self) -> bool:
        """Return whether any waits."""
        return bool(self._waiting)

    @property
    def ids(self) -> set[UUID]:
        """The tasks that wait."""
        return {suspect.claim.id for suspect in self._waiting}

    def add(self, worker_id: UUID, claim: Claim) -> None:
        """Let a claimed suspect wait for its turn."""
        self._waiting.append(Suspect(worker_id, claim))

    @property
    def next(self) -> Suspect:
        """The one whose turn is next."""
        return self._waiting[0]

    def cancel(self, ids: Iterable[UUID]) -> None:
        """Let these wait no longer: a release ends them."""
        for suspect in self._waiting:
            suspect.cancelled = suspect.cancelled or suspect.claim.id in ids

    def to_hand_on(self, *, one_runs: bool) -> list[Suspect]:
        """Return those that others should have; `one_runs`: a suspect runs here now, so that no other is next."""
        return [
            suspect
            for place, suspect in enumerate(self._waiting)
            if not suspect.may_wait(is_next=place == 0 and not one_runs)
        ]

    def remove(self, suspect: Suspect) -> bool:
        """Forget a suspect that has started or was given back; return False if it is forgotten already."""
        if suspect not in self._waiting:
            return False
        self._waiting.remove(suspect)
        return True

    def clear(self) -> list[Suspect]:
        """Forget all of them; return them."""
        suspects, self._waiting = list(self._waiting), deque()
        return suspects

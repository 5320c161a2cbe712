"""The suspects that this worker has claimed but not started yet, in the order in which they run."""

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
        """Return whether the suspect stays here; otherwise it is given back to other workers."""
        waited = time.monotonic() - self.claimed_at
        suspected = (self.claim.suspected_seconds or 0.0) + waited
        return not self.cancelled and may_wait(waited_seconds=waited, suspected_seconds=suspected, is_next=is_next)


class Suspects:
    """A queue of suspects."""

    def __init__(self) -> None:
        self._waiting: deque[Suspect] = deque()

    def __bool__(self) -> bool:
        """Return whether a suspect waits."""
        return bool(self._waiting)

    @property
    def ids(self) -> set[UUID]:
        """The waiting tasks."""
        return {suspect.claim.id for suspect in self._waiting}

    def add(self, worker_id: UUID, claim: Claim) -> None:
        """Add a claimed suspect to the queue."""
        self._waiting.append(Suspect(worker_id, claim))

    @property
    def next(self) -> Suspect:
        """The next suspect to run."""
        return self._waiting[0]

    def cancel(self, ids: Iterable[UUID]) -> None:
        """Let these tasks wait no longer: a release ends them."""
        for suspect in self._waiting:
            suspect.cancelled = suspect.cancelled or suspect.claim.id in ids

    def to_hand_on(self, *, one_runs: bool) -> list[Suspect]:
        """Return the suspects to give back; `one_runs`: a suspect runs here now, so no other suspect is next."""
        return [
            suspect
            for place, suspect in enumerate(self._waiting)
            if not suspect.may_wait(is_next=place == 0 and not one_runs)
        ]

    def remove(self, suspect: Suspect) -> bool:
        """Remove a suspect that was started or given back; return False if it was already removed."""
        if suspect not in self._waiting:
            return False
        self._waiting.remove(suspect)
        return True

    def clear(self) -> list[Suspect]:
        """Remove and return all suspects."""
        suspects, self._waiting = list(self._waiting), deque()
        return suspects

"""Suspects: tasks of which one may have taken a worker down. Each runs alone, where the worker runs nothing else.

Decides how long a worker that has claimed a suspect keeps it while it cannot run it.
"""

from typing import Final

HAND_ON_SECONDS: Final = 5.0
"""How long a suspect waits in a worker for its turn, in seconds, before others may have it."""
FREE_SECONDS: Final = 30.0
"""How long a free worker is looked for, in seconds, before a busy one ends what it runs and takes nothing new."""


def may_wait(*, waited_seconds: float, suspected_seconds: float, is_next: bool) -> bool:
    """Return whether a suspect stays with the worker that has claimed it, or is handed on to another.

    Args:
        waited_seconds: since it was claimed.
        suspected_seconds: since it became a suspect.
        is_next: it is the one that runs as soon as what runs here has ended.
    """
    return waited_seconds < HAND_ON_SECONDS or (is_next and suspected_seconds >= FREE_SECONDS)

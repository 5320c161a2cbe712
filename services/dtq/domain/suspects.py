"""Suspects: tasks that may have crashed a worker. A suspect runs alone: its worker runs nothing else at the time.

Decides how long a worker keeps a claimed suspect that it cannot start yet.
"""

from typing import Final

HAND_ON_SECONDS: Final = 5.0
"""How long a suspect waits in a worker, in seconds, before the worker gives it back to other workers."""
FREE_SECONDS: Final = 30.0
"""How long a suspect looks for a free worker, in seconds; then a busy worker finishes its tasks and takes no others."""


def may_wait(*, waited_seconds: float, suspected_seconds: float, is_next: bool) -> bool:
    """Return whether a suspect stays with the worker that claimed it; otherwise another worker takes it.

    Args:
        waited_seconds: since the suspect was claimed.
        suspected_seconds: since the task became a suspect.
        is_next: the suspect runs as soon as the running tasks have ended.
    """
    return waited_seconds < HAND_ON_SECONDS or (is_next and suspected_seconds >= FREE_SECONDS)

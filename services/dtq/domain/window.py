"""How many unclaimed messages a worker may hold, so that no message waits there while another worker is free."""

from typing import Final

SOON_SECONDS: Final = 1.0
"""How long a message should wait in a worker for a slot, at most, in seconds."""
GIVE_BACK_SECONDS: Final = 2 * SOON_SECONDS
"""How long a message may wait in a worker, in seconds, before it goes back to the broker."""


def window(*, moving: int, run_seconds: float | None, most: int) -> int:
    """Return how many messages can be started soon.

    Args:
        moving: slots that are free or may become free soon.
        run_seconds: average run time of this worker's handlers; None if no handler has ended yet.
        most: the prefetch.
    """
    starts_soon = 0.0 if run_seconds is None else moving * SOON_SECONDS / max(run_seconds, 1e-6)
    return int(min(most, max(moving, starts_soon)))

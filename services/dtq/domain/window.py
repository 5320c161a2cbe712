"""How many unclaimed messages of a queue a worker may hold, so that none waits in it while another worker is free."""

from typing import Final

SOON_SECONDS: Final = 1.0
"""How long a message should wait in a worker for a slot at the most, in seconds."""
GIVE_BACK_SECONDS: Final = 2 * SOON_SECONDS
"""How long a message has waited in a worker when it goes back to the broker, in seconds."""


def window(*, moving: int, run_seconds: float | None, most: int) -> int:
    """Return how many messages can be started soon.

    Args:
        moving: slots that are free, or whose handlers may still end soon.
        run_seconds: how long handlers of this worker run, on average; None if none has ended yet.
        most: the prefetch.
    """
    starts_soon = 0.0 if run_seconds is None else moving * SOON_SECONDS / max(run_seconds, 1e-6)
    return int(min(most, max(moving, starts_soon)))

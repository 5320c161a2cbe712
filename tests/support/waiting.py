"""Bounded waiting of tests on the event loop; threads wait with `hack.lib.waiting`."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

SHORT_SECONDS: Final = 10.0
"""What one running process does next, in seconds."""
CHANGE_SECONDS: Final = 20.0
"""A change is noticed and acted on: a reconcile, a renewed catalog, a claim, in seconds."""
READY_SECONDS: Final = 30.0
"""A server or another process has caught up, in seconds."""
LONG_SECONDS: Final = 60.0
"""A process starts or ends, a lease expires, a server comes back, in seconds."""
POLL_SECONDS: Final = 0.05
"""The pause between two checks, in seconds."""

Result = TypeVar("Result")


async def eventually(
    check: Callable[[], Awaitable[Result | None]], what: str | Callable[[], str], seconds: float = READY_SECONDS
) -> Result:
    """Call `check` until it returns something true, and return that.

    Args:
        check: must tolerate being cancelled when the time is over.
        what: is waited for; a callable is asked only after a failure.
        seconds: the bound; after it an `AssertionError` names `what` and the last result.
    """
    last: Result | None = None
    bound = asyncio.timeout(seconds)
    try:
        async with bound:
            while True:
                last = await check()
                if last:
                    return last
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        if not bound.expired():
            raise
        reason = what if isinstance(what, str) else what()
        raise AssertionError(f"not within {seconds:g} s: {reason}; last: {last!r}") from None

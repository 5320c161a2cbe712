"""A bounded, short-lived cache of token reviews.

Its keys are hashes, so that the cache adds no tokens to a memory dump.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from dtq_api.auth.policy import Caller

VERDICTS_MAX: Final = 10_000
"""Most cached verdicts; the least recently used is dropped first."""
GOOD_SECONDS: Final = 60.0
"""How long a valid token is accepted without a review, in seconds: bounds the access of a deleted ServiceAccount."""
BAD_SECONDS: Final = 10.0
"""How long an invalid token is refused without a review, in seconds: short, since a ServiceAccount may be new."""

Verdict = Caller | str
"""The caller, or why the token is refused."""


class TokenReviewCache:
    """Caches verdicts by the token's hash; concurrent requests with the same token share one review."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Verdict]] = {}

    async def get(self, digest: bytes, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
        """Return the cached verdict, or ask for a review.

        Raises:
            Unavailable: there is no cached verdict and the review failed; the failure is not cached.
        """
        kept = self._kept.get(digest)
        if kept is not None and self._clock() < kept[0]:
            self._kept.move_to_end(digest)
            return kept[1]
        asking = self._asking.get(digest)
        if asking is None:
            asking = asyncio.ensure_future(self._ask(digest, ask))
            self._asking[digest] = asking
            asking.add_done_callback(lambda done: self._asked(digest, done))
        # A caller that disconnects must not cancel the review for the others.
        return await asyncio.shield(asking)

    async def _ask(self, digest: bytes, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
        verdict = await ask()
        good_for = GOOD_SECONDS if isinstance(verdict, Caller) else BAD_SECONDS
        self._kept[digest] = (self._clock() + good_for, verdict)
        self._kept.move_to_end(digest)
        while len(self._kept) > VERDICTS_MAX:
            self._kept.popitem(last=False)
        return verdict

    def _asked(self, digest: bytes, done: "asyncio.Task[Verdict]") -> None:
        del self._asking[digest]
        if not done.cancelled():
            done.exception()  # every waiting request must get the error

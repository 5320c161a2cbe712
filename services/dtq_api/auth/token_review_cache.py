"""What the API server said about tokens, kept for a short while and bounded. No I/O of its own.

Owns the cache. Its keys are hashes: a dump of this process's memory does not hold tokens for its sake.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final

from dtq_api.auth.policy import Caller

VERDICTS_MAX: Final = 10_000
"""Most verdicts kept; the one that was not asked for longest goes first."""
GOOD_SECONDS: Final = 60.0
"""How long a good token is believed, in seconds: how long a deleted ServiceAccount may go on at the most."""
BAD_SECONDS: Final = 10.0
"""How long a bad token is refused without asking, in seconds: shorter, for a ServiceAccount that was just made."""

Verdict = Caller | str
"""Who calls, or why the token is refused."""


class TokenReviewCache:
    """Keeps verdicts by the token's hash; asks once for requests that arrive together."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[float, Verdict]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Verdict]] = {}

    async def get(self, digest: bytes, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
        """Return the verdict at hand, or ask for it.

        Raises:
            Unavailable: nothing is at hand and nobody answers; that is not kept.
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
        # One caller that goes away must not take the answer from the others.
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
            done.exception()  # whoever waits is told; nobody may be left to wait

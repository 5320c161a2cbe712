"""Handing on: publishes messages again whose type has no handler here, for the other workers of the queue.

A message says how often it was handed on. After `HANDED_ON_MAX` times the claim parks its task in Postgres, so that a
message does not circulate in the broker for ever. Only the claim decides what runs.
"""

from collections.abc import Collection, Sequence
from typing import Final
from uuid import UUID

import structlog

from dtq.broker.messages import work
from dtq.broker.publisher import Publisher
from dtq.domain.envelope import Envelope
from dtq.domain.errors import Unavailable

HANDED_ON_MAX: Final = 5
"""How often one message is handed on: the broker serves its consumers in turn, so a few of them see the message."""

_log = structlog.get_logger(__name__)


class HandingOn:
    """Publishes messages again for other workers.

    Args:
        namespace: prefix of the queues that this worker consumes.
        types: the types that have a handler here.
    """

    def __init__(self, publisher: Publisher, *, namespace: str, types: Collection[str]) -> None:
        self._publisher = publisher
        self._namespace = namespace
        self._types = frozenset(types)

    async def hand_on(self, received: Sequence[tuple[str, Envelope]]) -> set[UUID]:
        """Hand on messages without a handler here; return the tasks whose message is in the broker again.

        Args:
            received: each message with its queue.
        """
        others = [
            (queue, envelope)
            for queue, envelope in received
            if envelope.type not in self._types and envelope.handed_on < HANDED_ON_MAX
        ]
        if not others:
            return set()
        try:
            self._publisher.check()
        except Unavailable as error:
            _log.warning("handover failed", tasks=len(others), reason=str(error))
            return set()
        messages = [
            work(self._namespace, queue, envelope.id, envelope.type, handed_on=envelope.handed_on + 1)
            for queue, envelope in others
        ]
        results = await self._publisher.publish(messages)
        return {envelope.id for (_, envelope), refused in zip(others, results, strict=True) if refused is None}

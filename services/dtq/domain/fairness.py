"""Fairness between queues: the order in which buffered deliveries are taken.

Urgent queues come first; the others never starve.
"""

from collections import deque
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def take_weighted(buffers: Sequence[deque[T]], limit: int) -> list[T]:
    """Take up to `limit` items from the fronts of `buffers`, which are ordered by urgency.

    In each round, the first of n buffers gives up to n items, the second n - 1, … and the last one item: a busy
    urgent queue gets most of the slots, and the least urgent queue still gets some.
    """
    filled = [buffer for buffer in buffers if buffer]
    if len(filled) == 1:
        return [filled[0].popleft() for _ in range(min(limit, len(filled[0])))]
    taken: list[T] = []
    while len(taken) < limit and any(buffers):
        for urgency, buffer in zip(range(len(buffers), 0, -1), buffers, strict=True):
            taken.extend(buffer.popleft() for _ in range(min(urgency, len(buffer), limit - len(taken))))
    return taken

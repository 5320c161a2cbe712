"""References: finds out whether any task refers to a task type, by a walk over the table in bounded steps.

`tasks` has no index by type: it would cost every task something, for a question that is asked once in the life of a
type. Every function raises `Unavailable` when the database does not answer.
"""

import time
from typing import Final

from dtq.domain.plan import References
from dtq_db.connections import Database
from dtq_db.queries import query

STEP: Final = 5_000
"""Tasks examined by one statement: some milliseconds."""
SEARCH_SECONDS: Final = 2.0
"""How long one search may take, in seconds; the next search continues it."""


async def search(database: Database, type_: str, *, is_inactive: bool) -> References | None:
    """Search for tasks of a type, for at most SEARCH_SECONDS; return the result, or None if the type is gone.

    Args:
        database: the database with the tasks.
        type_: the type.
        is_inactive: the type gets no more tasks, so the search continues where the last search stopped.
    """
    statement = "task_type_deletion_begin" if is_inactive else "task_id_bounds"
    begun = await database.fetch(query(statement), *([type_] if is_inactive else []))
    if not begun:
        return None if is_inactive else References(found=False, is_complete=True, share=1.0)
    first, at, last = begun[0]["first_id"], begun[0]["looked_through"], begun[0]["last_id"]
    begun_at, until, found = at, time.monotonic() + SEARCH_SECONDS, False
    while at < last and not found and time.monotonic() < until:
        (step,) = await database.fetch(query("task_type_in_use"), type_, at, last, STEP)
        found = step["in_use"]
        if not found:
            at = step["last_id"] if step["looked_at"] == STEP else last
    if is_inactive and at != begun_at:
        await database.fetch(query("task_type_deletion_move"), type_, at)
    share = 1.0 if at >= last else max(0, at.int - first.int) / max(1, last.int - first.int)
    return References(found=found, is_complete=found or at >= last, share=share)

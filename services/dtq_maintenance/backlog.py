"""The backlog loop: sets the gauges of what waits in Postgres.

Every replica sets the same values; the gauges of a queue that is no longer declared disappear.
"""

from typing import Final

from dtq.runtime.metrics import BacklogMetrics
from dtq_db import backlog
from dtq_db.connections import Database

BACKLOG_SECONDS: Final = 10.0
"""Pause between two readings, in seconds: shorter than any scrape interval."""


class BacklogWatch:
    """Reads the backlog and sets the gauges."""

    def __init__(self, database: Database, *, metrics: BacklogMetrics) -> None:
        self._dedicated = database.dedicated("backlog")
        self._metrics = metrics

    async def once(self) -> bool:
        """Set the gauges once; return False.

        Raises:
            Unavailable: the database does not answer; the gauges stay, and the loop's last success gets older.
        """
        found = await backlog.look(self._dedicated)
        metrics = self._metrics
        for gauge in (metrics.waiting, metrics.oldest):
            gauge.clear()
        for queue in found.queues:
            metrics.waiting.labels(queue.queue_set, queue.queue).set(queue.waiting)
            metrics.oldest.labels(queue.queue_set, queue.queue).set(queue.oldest_seconds)
        metrics.outbox.set(found.outbox)
        metrics.outbox_lag.set(found.outbox_lag_seconds)
        metrics.blocked.set(found.blocked)
        metrics.failed.set(found.failed)
        metrics.undelivered.set(found.dead_letters_due)
        metrics.workers.labels("alive").set(found.workers_alive)
        metrics.workers.labels("expired").set(found.workers_expired)
        return False

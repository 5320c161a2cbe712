"""The backlog loop: tells the metrics what waits in Postgres.

Owns the gauges. Every replica sets the same; a queue that is no longer declared disappears.
"""

from typing import Final

from dtq.runtime.metrics import BacklogMetrics
from dtq_db import backlog
from dtq_db.connections import Database

BACKLOG_SECONDS: Final = 10.0
"""Pause between two looks, in seconds: finer than any scrape is coarse."""


class BacklogWatch:
    """Looks, and sets the gauges."""

    def __init__(self, database: Database, *, metrics: BacklogMetrics) -> None:
        self._dedicated = database.dedicated("backlog")
        self._metrics = metrics

    async def once(self) -> bool:
        """Look once; return False.

        Raises:
            Unavailable: the database does not answer; the gauges stay, and the loop's last success grows old.
        """
        found = await backlog.look(self._dedicated)
        metrics = self._metrics
        for gauge in (metrics.waiting, metrics.oldest):
            gauge.clear()
        for one in found.queues:
            metrics.waiting.labels(one.queue_set, one.queue).set(one.waiting)
            metrics.oldest.labels(one.queue_set, one.queue).set(one.oldest_seconds)
        metrics.outbox.set(found.outbox)
        metrics.outbox_lag.set(found.outbox_lag_seconds)
        metrics.blocked.set(found.blocked)
        metrics.failed.set(found.failed)
        metrics.undelivered.set(found.dead_letters_due)
        metrics.workers.labels("alive").set(found.workers_alive)
        metrics.workers.labels("expired").set(found.workers_expired)
        return False

-- What waits for the relay, for room, for a person or for the dead letter queue, each counted up to $1, and workers by
-- lease. Indexes tasks_waiting, tasks_blocked, tasks_failed, tasks_dead_letter_due; caller: the backlog loop.
WITH outbox AS (
    SELECT t.publish_at FROM tasks t JOIN queue_set s ON s.name = t.queue_set AND NOT s.paused
    WHERE t.needs_publish AND t.publish_at <= now()
    ORDER BY t.publish_at LIMIT $1
)
SELECT
    (SELECT count(*)::integer FROM outbox) AS outbox,
    (SELECT coalesce(extract(epoch FROM now() - min(publish_at)), 0)::double precision FROM outbox) AS outbox_lag_seconds,
    (SELECT count(*)::integer FROM (SELECT 1 FROM tasks WHERE blocked_on IS NOT NULL LIMIT $1) b) AS blocked,
    (SELECT count(*)::integer FROM (SELECT 1 FROM tasks WHERE failed_at IS NOT NULL LIMIT $1) f) AS failed,
    (SELECT count(*)::integer FROM (
        SELECT 1 FROM tasks t JOIN queue_set s ON s.name = t.queue_set AND s.dead_letter
        WHERE t.failed_at IS NOT NULL AND t.dead_lettered_at IS NULL LIMIT $1) d) AS dead_letters_due,
    (SELECT count(*)::integer FROM workers WHERE lease_expires_at > now() AND reaped_at IS NULL) AS workers_alive,
    (SELECT count(*)::integer FROM workers WHERE lease_expires_at <= now() AND reaped_at IS NULL) AS workers_expired

-- Tasks that wait for the relay, for room, for a person or for the dead letter queue, each counted up to $1 (per queue
-- or set), and workers by lease. Indexes tasks_outbox, tasks_blocked, tasks_failed, tasks_dead_letter,
-- workers_unreaped; caller: the backlog loop.
WITH outbox AS (
    SELECT d.publish_at FROM queue q JOIN queue_set s ON s.name = q.queue_set AND NOT s.paused
    CROSS JOIN LATERAL (
        SELECT t.publish_at FROM tasks t
        WHERE t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name AND t.publish_at <= now()
        ORDER BY t.publish_at LIMIT $1
    ) AS d
)
SELECT
    (SELECT count(*)::integer FROM outbox) AS outbox,
    (SELECT coalesce(extract(epoch FROM now() - min(publish_at)), 0)::double precision FROM outbox)
        AS outbox_lag_seconds,
    (SELECT count(*)::integer FROM (SELECT 1 FROM tasks WHERE blocked_on IS NOT NULL LIMIT $1) b) AS blocked,
    (SELECT count(*)::integer FROM (
        SELECT 1 FROM tasks WHERE failed_at IS NOT NULL ORDER BY failed_at LIMIT $1) f) AS failed,
    (SELECT count(*)::integer FROM queue_set s CROSS JOIN LATERAL (
        SELECT 1 FROM tasks t WHERE t.queue_set = s.name AND t.dead_letter_at IS NOT NULL
        ORDER BY t.dead_letter_at LIMIT $1
    ) AS d WHERE s.dead_letter) AS dead_letters_due,
    (SELECT count(*)::integer FROM workers WHERE lease_expires_at > now() AND reaped_at IS NULL) AS workers_alive,
    (SELECT count(*)::integer FROM workers WHERE lease_expires_at <= now() AND reaped_at IS NULL) AS workers_expired

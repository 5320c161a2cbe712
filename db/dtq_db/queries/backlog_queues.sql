-- Due and waiting tasks by queue: up to $1 tasks of each half of each queue, which bounds the cost for any backlog.
-- Blocked tasks wait for room, not for a worker. Indexes tasks_outbox, tasks_published. Caller: the backlog loop.
SELECT q.queue_set, q.name AS queue, w.waiting,
    coalesce(extract(epoch FROM now() - w.oldest), 0)::double precision AS oldest_seconds
FROM queue q
CROSS JOIN LATERAL (
    SELECT count(*)::integer AS waiting, min(d.run_at) AS oldest FROM (
        (SELECT t.run_at, t.blocked_on FROM tasks t
        WHERE t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name
            AND t.publish_at <= now() + interval '15 seconds'
        ORDER BY t.publish_at LIMIT $1)
        UNION ALL
        (SELECT t.run_at, t.blocked_on FROM tasks t
        WHERE NOT t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name AND t.publish_at <= now()
        ORDER BY t.publish_at LIMIT $1)
    ) AS d WHERE d.run_at <= now() AND d.blocked_on IS NULL
) AS w

-- What is due and waits, by queue: of the first $1 rows of each half of tasks_waiting, which bounds the cost
-- whatever the backlog. Blocked tasks wait for room, not for a worker. Caller: the backlog loop.
WITH due AS (
    (SELECT queue_set, queue, run_at FROM tasks
    WHERE needs_publish AND publish_at <= now() + interval '15 seconds' AND run_at <= now() AND blocked_on IS NULL
    ORDER BY publish_at LIMIT $1)
    UNION ALL
    (SELECT queue_set, queue, run_at FROM tasks
    WHERE needs_publish = false AND needs_publish IS NOT NULL AND publish_at <= now() AND run_at <= now()
    ORDER BY publish_at LIMIT $1)
)
SELECT queue_set, queue, count(d.run_at)::integer AS waiting,
    coalesce(extract(epoch FROM now() - min(d.run_at)), 0)::double precision AS oldest_seconds
FROM (SELECT q.queue_set, q.name AS queue FROM queue q) declared FULL JOIN due d USING (queue_set, queue)
GROUP BY queue_set, queue

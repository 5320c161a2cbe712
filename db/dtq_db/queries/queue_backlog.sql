-- How many tasks of the queues $1 of queue set $2 are due and wait for a worker, wherever their messages are; counting
-- each half of a queue stops at $3 rows, which bounds the cost. Tasks published again within 15 s are examined too.
-- Blocked tasks wait for room, not for a worker. Indexes tasks_outbox, tasks_published; caller: scaling.
SELECT q.name AS queue, (
        SELECT least($3, count(*))::integer FROM (
            (SELECT t.run_at, t.blocked_on FROM tasks t
            WHERE t.needs_publish AND t.queue_set = $2 AND t.queue = q.name
                AND t.publish_at <= now() + interval '15 seconds'
            ORDER BY t.publish_at LIMIT $3)
            UNION ALL
            (SELECT t.run_at, t.blocked_on FROM tasks t
            WHERE NOT t.needs_publish AND t.queue_set = $2 AND t.queue = q.name AND t.publish_at <= now()
            ORDER BY t.publish_at LIMIT $3)
        ) w WHERE w.run_at <= now() AND w.blocked_on IS NULL
    ) AS waiting
FROM unnest($1::text[]) AS q (name)

-- Drop one batch of finished tasks whose retention is over, walking the primary key from $1 on; returns the last
-- id looked at and how many were dropped. Caller: the pruner.
WITH page AS (
    SELECT id, type, status, updated_at FROM tasks WHERE id > $1 ORDER BY id LIMIT $2
), gone AS (
    DELETE FROM tasks t USING page p JOIN task_type y ON y.type = p.type
    WHERE t.id = p.id AND t.status IN ('SUCCEEDED', 'CANCELLED', 'FAILED')
        AND t.updated_at < now() - make_interval(secs => CASE WHEN t.status = 'FAILED'
            THEN y.retention_failed_seconds ELSE y.retention_succeeded_seconds END)
    RETURNING 1
)
SELECT (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last_id, (SELECT count(*) FROM page)::integer AS looked_at,
    (SELECT count(*) FROM gone)::integer AS dropped

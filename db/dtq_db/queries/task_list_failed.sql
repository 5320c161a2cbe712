-- As task_list, for FAILED tasks; index tasks_failed_page.
WITH looked AS MATERIALIZED (
    SELECT id, type, queue FROM tasks
    WHERE failed_at IS NOT NULL AND id::text COLLATE "C" < $1::uuid::text
    ORDER BY id::text COLLATE "C" DESC LIMIT $2
), fitting AS (
    SELECT id FROM looked
    WHERE ($3::text IS NULL OR type = $3) AND ($4::text IS NULL OR queue = $4)
        AND ($5::text[] IS NULL OR type = ANY ($5))
    ORDER BY id DESC LIMIT $6
)
SELECT l.looked_at, l.last_id, t.*
FROM (
    SELECT count(*)::integer AS looked_at, (SELECT id FROM looked ORDER BY id LIMIT 1) AS last_id FROM looked
) AS l
LEFT JOIN LATERAL (
    SELECT t.id, t.type, t.queue, t.status, t.attempts, t.max_attempts,
        t.last_error, t.created_at, t.updated_at
    FROM tasks t WHERE t.id = ANY (ARRAY(SELECT id FROM fitting))
) AS t ON true
ORDER BY t.id DESC

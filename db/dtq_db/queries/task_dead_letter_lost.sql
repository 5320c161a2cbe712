-- Up to $4 failed tasks behind ($2, $3) whose copy went with their dead letter queue: it is due again.
-- Index tasks_failed; callers: topology repair.
WITH lost AS (
    SELECT id, failed_at FROM tasks
    WHERE failed_at IS NOT NULL AND dead_lettered_at IS NOT NULL AND queue_set = $1
        AND (failed_at, id) > (coalesce($2::timestamptz, '-infinity'), $3::uuid)
    ORDER BY failed_at, id LIMIT $4 FOR UPDATE
), marked AS (
    UPDATE tasks t SET dead_lettered_at = NULL FROM lost l WHERE t.id = l.id AND t.dead_lettered_at IS NOT NULL
)
SELECT id, failed_at FROM lost ORDER BY failed_at, id

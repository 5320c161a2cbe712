-- As task_failed_select, for one type, $2; index tasks_failed_type.
WITH page AS (
    SELECT id, queue, failed_at FROM tasks
    WHERE failed_at IS NOT NULL AND type = $2::text AND (failed_at, id) > ($3::timestamptz, $4::uuid)
        AND failed_at < coalesce($6::timestamptz, 'infinity')
    ORDER BY failed_at, id LIMIT $5
)
SELECT id, failed_at, ($1::text IS NULL OR queue = $1) AS matches FROM page ORDER BY failed_at, id

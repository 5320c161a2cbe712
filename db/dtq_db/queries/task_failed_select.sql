-- One page of the walk of a redrive by filter: of the next $5 failed tasks after ($3, $4), oldest failure first, those
-- of queue $1 and types $2 that failed before $6, and the position of the walk. Index tasks_failed. Caller:
-- POST /dlq/redrive.
WITH page AS (
    SELECT id, type, queue, failed_at FROM tasks
    WHERE failed_at IS NOT NULL AND (failed_at, id) > ($3::timestamptz, $4::uuid)
        AND failed_at < coalesce($6::timestamptz, 'infinity')
    ORDER BY failed_at, id LIMIT $5
)
SELECT id, failed_at, ($1::text IS NULL OR queue = $1) AND ($2::text[] IS NULL OR type = ANY ($2)) AS matches
FROM page ORDER BY failed_at, id

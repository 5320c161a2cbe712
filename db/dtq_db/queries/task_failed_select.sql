-- Failed tasks that a redrive by filter would take, oldest failure first. Index tasks_failed; caller: POST /dlq/redrive.
SELECT id, type, queue, last_error, failed_at
FROM tasks
WHERE failed_at IS NOT NULL AND ($1::text IS NULL OR type = $1) AND ($2::text IS NULL OR queue = $2)
    AND ($3::timestamptz IS NULL OR failed_at < $3) AND ($5::text[] IS NULL OR type = ANY ($5))
ORDER BY failed_at, id LIMIT $4

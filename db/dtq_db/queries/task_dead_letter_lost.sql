-- Of the next $4 failed tasks after ($2, $3), oldest failure first, mark those of queue set $1 whose copy was lost with
-- its dead letter queue as due again. Returns the position of the walk and how many were marked.
-- Index tasks_failed; caller: topology repair.
WITH page AS (
    SELECT id, failed_at, queue_set, dead_lettered_at FROM tasks
    WHERE failed_at IS NOT NULL AND (failed_at, id) > ($2::timestamptz, $3::uuid)
    ORDER BY failed_at, id LIMIT $4 FOR UPDATE
), marked AS (
    UPDATE tasks t SET dead_lettered_at = NULL, dead_letter_at = now()
    WHERE t.id = ANY (ARRAY(SELECT p.id FROM page p WHERE p.queue_set = $1 AND p.dead_lettered_at IS NOT NULL))
    RETURNING 1
)
SELECT failed_at, id, (SELECT count(*) FROM marked)::integer AS marked
FROM page ORDER BY failed_at DESC, id DESC LIMIT 1

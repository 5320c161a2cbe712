-- Of the $2 newest tasks older than $1, up to $6 of type $3, queue $4, types $5 and status $7, newest first (ids are
-- version 7: their order is the order of creation), with how many were examined and the position of the walk. That
-- bounds the cost, however few match. Primary key, backwards; caller: GET /tasks.
WITH looked AS MATERIALIZED (
    SELECT id, type, queue, status FROM tasks WHERE id < $1::uuid ORDER BY id DESC LIMIT $2
), fitting AS (
    SELECT id FROM looked
    WHERE ($3::text IS NULL OR type = $3) AND ($4::text IS NULL OR queue = $4)
        AND ($5::text[] IS NULL OR type = ANY ($5))
        AND ($7::text IS NULL OR status = $7)
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

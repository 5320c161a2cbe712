-- One page of tasks, newest first (ids are version 7: their order is the order of creation), after the cursor $1.
-- Primary key, backwards; the statement timeout bounds a filter that matches little. Caller: GET /tasks.
SELECT id, type, queue, status, attempts, max_attempts, last_error, created_at, updated_at
FROM tasks
WHERE ($1::uuid IS NULL OR id < $1) AND ($2::text IS NULL OR status = $2) AND ($3::text IS NULL OR type = $3)
    AND ($4::text IS NULL OR queue = $4) AND ($6::text[] IS NULL OR type = ANY ($6))
ORDER BY id DESC LIMIT $5
